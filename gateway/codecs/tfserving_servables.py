"""What TensorFlow Serving tells of models: status, metadata, and its words for what is not there.

Sources: tensorflow_serving/core/aspired_versions_manager.cc, model_servers/{server_core,get_model_status_impl}.cc,
apis/{get_model_status,get_model_metadata}.proto. The bodies over REST are those messages as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from gateway.codecs.tfserving import definition, model_spec
from gateway.core.modelref import ModelRef
from gateway.errors import Code, DuetError, InvalidArgument, NotFound, OpaqueModel
from gateway.protos import tfserving_pb2 as pb
from gateway.types import ModelMetadata, Signature, Target, VersionMetadata

#: The one field that GetModelMetadata knows.
SIGNATURE_FIELD = "signature_def"

_SIGNATURE_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class Servable(NamedTuple):
    """The model that a path or a ModelSpec names: ``name`` is as the client wrote it, ``ref`` what it means."""

    name: str
    ref: ModelRef


def unrecognized(label: str) -> InvalidArgument:
    return InvalidArgument(f"Unrecognized servable version label: {label}")


@contextmanager
def looked_up(servable: Servable) -> Iterator[None]:
    """A NotFound from inside becomes TensorFlow Serving's: for a label, whatever is missing, that it is unknown."""
    try:
        yield
    except NotFound as error:
        name, ref = servable
        if ref.label:
            raise unrecognized(ref.label) from error
        wanted = f"Latest({name})" if ref.version is None else f"Specific({name}, {ref.version})"
        raise NotFound(f"Servable not found for request: {wanted}") from error


@contextmanager
def targeted(target: Target) -> Iterator[None]:
    """An error from inside tells which version it was about, also where the request was never sent to it."""
    try:
        yield
    except DuetError as error:
        error.target = error.target or target.meant
        raise


def check_tensors(target: Target) -> None:
    """Raises OpaqueModel where the version takes no tensors."""
    if target.opaque:
        raise OpaqueModel(target.model)


def signature(version: VersionMetadata, name: str, unknown: Callable[[str], DuetError]) -> Signature:
    """The signature of that name. Raises what ``unknown`` makes of a name that is none."""
    found = version.signatures.get(name)
    if found is None:
        raise unknown(name)
    return found


def versions(metadata: ModelMetadata, servable: Servable) -> list[VersionMetadata]:
    """The versions that a status is asked of, newest first. Raises NotFound in the words of a status call."""
    name, wanted = servable.name, servable.ref.version
    if wanted is None:
        if not metadata.versions:
            raise NotFound(f"Could not find any versions of model {name}")
        return sorted(metadata.versions.values(), key=lambda entry: -entry.version)
    if wanted not in metadata.versions:
        raise NotFound(f"Could not find version {wanted} of model {name}")
    return [metadata.versions[wanted]]


@contextmanager
def status_of(servable: Servable) -> Iterator[None]:
    """A NotFound from inside becomes the one that a status call has for an unknown model."""
    try:
        yield
    except NotFound as error:
        raise NotFound(f"Could not find any versions of model {servable.name}") from error


def status_message(entries: list[VersionMetadata]) -> pb.GetModelStatusResponse:
    message = pb.GetModelStatusResponse()
    for entry in entries:
        state, code, text = _state(entry)
        status = pb.StatusProto(error_code=_STATUS_CODES[code], error_message=text)
        message.model_version_status.add(
            version=entry.version, state=pb.ModelVersionStatus.State.Value(state), status=status
        )
    return message


def status_document(entries: list[VersionMetadata]) -> dict[str, Any]:
    """The message as protobuf's JSON has it, int64 as strings, and beside it KServe v1's ``ready``."""
    found = []
    for entry in entries:
        state, code, text = _state(entry)
        status = {"error_code": code, "error_message": text}
        found.append({"version": str(entry.version), "state": state, "status": status})
    return {"model_version_status": found, "ready": any(entry.ready for entry in entries)}


def metadata_message(name: str, version: VersionMetadata) -> pb.GetModelMetadataResponse:
    """Signatures as the model's server gave them, or made of what is known of it."""
    definitions = pb.SignatureDefMap()
    for key, signature in version.signatures.items():
        definitions.signature_def[key].CopyFrom(definition(signature))
    value = pb.Any(type_url=_SIGNATURE_TYPE, value=definitions.SerializeToString(deterministic=True))
    return pb.GetModelMetadataResponse(model_spec=model_spec(name, version.version), metadata={SIGNATURE_FIELD: value})


def metadata_document(name: str, version: VersionMetadata) -> dict[str, Any]:
    """The message as JSON. The map of signatures lies in a message whose one member has the same name."""
    definitions = {
        key: _document(definition(signature).SerializeToString(deterministic=True))
        for key, signature in version.signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.version)},
        "metadata": {SIGNATURE_FIELD: {SIGNATURE_FIELD: definitions}},
    }


_STATUS_CODES = {"OK": Code.OK.value, "UNKNOWN": 2}
_STATES = frozenset(pb.ModelVersionStatus.State.keys())


def _state(entry: VersionMetadata) -> tuple[str, str, str]:
    """State, code and text. What is not ready for a reason of its server's own has no state that TensorFlow names."""
    if entry.ready:
        return "AVAILABLE", "OK", ""
    if entry.reason in _STATES:
        return entry.reason, "OK", ""
    return "UNKNOWN", "UNKNOWN", entry.reason


@lru_cache(maxsize=256)
def _document(serialized: bytes) -> dict[str, Any]:
    """A SignatureDef as JSON, fields without a value too. Kept: a signature may hold megabytes of default values."""
    return MessageToDict(
        pb.SignatureDef.FromString(serialized),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
