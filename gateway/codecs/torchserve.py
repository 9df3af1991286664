"""What TorchServe's clients send and read, in both directions.

TorchServe itself leaves a body to the model's handler. Here the model's signature makes tensors of it, in every form
that documented clients use: JSON (bare, by name, or in an envelope), raw bytes, ``.npy``, multipart, a form, and text
for BYTES. An envelope is answered in kind: ``instances`` by ``predictions`` (as TorchServe's JSON envelope does),
``inputs`` by ``outputs``, the Open Inference Protocol's by its own. A bare body gets a bare answer: the nested list of
the one output, or an object of several by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson

from gateway.codecs import fitting, json, large, limits, multipart, npy, raw, scan, v2
from gateway.codecs import torchserve_values as values
from gateway.codecs.raw import Buffer
from gateway.codecs.torchserve_values import (
    JSON,
    NPY,
    OCTETS,
    is_json,
    looks_like_text,
    media_type,
    of_part,
    of_raw_bytes,
    parse,
    parsed_text,
)
from gateway.core.modelref import ModelRef
from gateway.errors import InvalidArgument, NotAcceptable, NotFound, UnknownVersion
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferResponse,
    Parameter,
    Signature,
    Target,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

#: The names under which TorchServe's own examples send the body of a model with one input.
_BODY_NAMES = frozenset({"data", "body"})
#: Entries of an Accept header that are read: browsers send a dozen.
_MAX_ACCEPTED = 64
_VERSION = re.compile(r"([0-9]{1,18})(\.0+)?")
_NO_VERSION = -1
_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_INSTEAD_OF_JSON = f"ask for raw bytes (Accept: {OCTETS})"


class ModelNotFound(NotFound):
    def __init__(self, model: str) -> None:
        super().__init__(f"Model not found: {model}")


class VersionNotFound(NotFound):
    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"Model version: {version} does not exist for model: {model}")


class Envelope(Enum):
    """What the tensors of a JSON body are wrapped in; the value is the answer's member."""

    BARE = ""
    INSTANCES = "predictions"
    INPUTS = "outputs"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded request body, and how it wants to be answered."""

    inputs: tuple[Tensor, ...]
    envelope: Envelope = Envelope.BARE
    added: fitting.Added = fitting.NOTHING
    outputs: tuple[str, ...] = ()
    parameters: dict[str, Parameter] = field(default_factory=dict)
    id: str = ""
    form: v2.OutputForm = v2.OutputForm()  # noqa: RUF009 - frozen
    #: As the Open Inference Protocol's parameters name it.
    signature_name: str | None = None

    @property
    def variant(self) -> str | None:
        """The pin among the Open Inference Protocol's parameters. Raises InvalidArgument."""
        pin = self.parameters.get("variant")
        if pin is not None and not isinstance(pin, str):
            raise InvalidArgument("parameter 'variant' must be a string")
        return pin


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded answer; ``header_length`` is set for the Open Inference Protocol's binary form."""

    pieces: list[bytes | memoryview]
    content_type: str
    header_length: int | None = None


def version(text: str) -> int | None:
    """TorchServe's "2" and "2.0" are version 2; None for what is no whole number."""
    match = _VERSION.fullmatch(text)
    return int(match[1]) if match else None


def resolved(resolve: Callable[[ModelRef], Target], ref: ModelRef, text: str) -> Target:
    """The target of ``ref`` in the version that ``text`` says, which may be empty. Errors have TorchServe's words.

    A text that is no version is looked up as one that no model has: an unknown model comes first.
    """
    number = version(text) if text else None
    wanted = ref._replace(version=_NO_VERSION if number is None else number) if text else ref
    try:
        return resolve(wanted)
    except UnknownVersion as error:
        missing = VersionNotFound(ref.model, text)
        missing.target = error.target
        raise missing from None
    except NotFound as error:
        raise error if ref.variant else ModelNotFound(ref.model) from None


def signature_of(chosen: VersionMetadata, name: str = DEFAULT_SIGNATURE) -> Signature:
    """The signature that bodies are read by. Raises InvalidArgument where the model has none of the name."""
    found = chosen.signatures.get(name)
    if found is None:
        known = ", ".join(sorted(chosen.signatures)) or "none"
        raise InvalidArgument(f"this call needs the signature {name!r}; the model's signatures are {known}")
    return found


def accepted(header: str | None) -> str | None:
    """The answer's type that an Accept header asks for first, of those that there are; None where it asks for none."""
    best, best_weight = None, 0.0
    for entry in (header or "").lower().split(",", _MAX_ACCEPTED)[:_MAX_ACCEPTED]:
        media, *parameters = (piece.strip() for piece in entry.split(";", _MAX_ACCEPTED))
        weight = next((_weight(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
        if media in (JSON, OCTETS, NPY) and weight > best_weight:
            best, best_weight = media, weight
    return best


#: A file of numbers of another type takes milliseconds from here on.
LONG_CONVERSION_BYTES = 4 << 20


def may_be_parsed(body: bytes, content_type: str | None, header_length: int | None) -> bool:
    """Whether `decode` may have much to parse: all but bytes that are known to be numbers."""
    media = media_type(content_type)
    return header_length is None and (media in (MULTIPART, FORM) or values.may_be_parsed(body, media))


def is_converted(body: bytes, signature: Signature) -> bool:
    """Whether the body is a large ``.npy`` file, all of whose numbers `decode` has to make numbers of another type."""
    if len(body) < LONG_CONVERSION_BYTES or not body.startswith(npy.MAGIC):
        return False
    main = fitting.main_input(signature.inputs)
    return main is not None and npy.is_converted(main.datatype, body)


def named_may_be_parsed(parts: Mapping[str, bytes], min_bytes: int) -> bool:
    """The same for `decode_named`, of parts that are large together; ``.npy`` files count, as they may be converted."""
    return sum(map(len, parts.values())) >= min_bytes and any(
        values.may_be_parsed(data, "") or (data.startswith(npy.MAGIC) and len(data) >= LONG_CONVERSION_BYTES)
        for data in parts.values()
        if len(data) * len(parts) >= min_bytes
    )


def decode(
    body: bytes, signature: Signature, content_type: str | None = None, header_length: int | None = None
) -> Body:
    """A request body. Raises InvalidArgument, which names the input or member at fault.

    ``header_length`` is the value of the header Inference-Header-Content-Length: with it, the body is the Open
    Inference Protocol's binary form. Otherwise ``content_type`` decides, and where it says nothing the body itself:
    ``curl -T`` sends none, ``curl -d`` that of a form.
    """
    specs = signature.inputs
    if header_length is not None:
        decoded = v2.decode_request(body, header_length) if header_length else v2.decode_raw_request(body, signature)
        # The handler that Duet packs into archives answers in binary, and its clients come through this path.
        return _of_v2(decoded, replace(decoded.form, all_binary=decoded.form.all_binary or not decoded.form.by_name))
    media = media_type(content_type)
    if media == MULTIPART:
        parts = multipart.decode(body, content_type or "")
        return _named({name: (part.data, media_type(part.content_type)) for name, part in parts.items()}, specs)
    if media == FORM:
        return _form(body, specs)
    if media == OCTETS and not body.startswith(npy.MAGIC):
        spec = _only(specs, "raw bytes")
        return _fitted([(of_raw_bytes(spec, body), spec)])
    return _whole(body, media, specs)


def decode_named(parts: Mapping[str, bytes], signature: Signature) -> Body:
    """The inputs of a gRPC call: each value is JSON, ``.npy``, raw bytes, or text for BYTES. Raises InvalidArgument."""
    limits.check_count("inputs", len(parts), multipart.MAX_PARTS)
    return _named({name: (data, "") for name, data in parts.items()}, signature.inputs)


def encode(
    response: InferResponse, body: Body, accept: str | None = None, *, instead: str = _INSTEAD_OF_JSON
) -> Answer:
    """The answer to ``body`` in the type that `accepted` found. Raises NotAcceptable where there is none.

    What it says to do ``instead`` of JSON is the front's to know.

    Raw bytes of several outputs, or to a binary request, are the Open Inference Protocol's binary form.
    """
    outputs = response.outputs
    if accept == OCTETS and len(outputs) == 1 and body.envelope is not Envelope.V2:
        return Answer([raw.encode(outputs[0])], OCTETS)
    if accept == NPY:
        if len(outputs) != 1:
            raise NotAcceptable(f"an .npy file holds one output, the model has {len(outputs)}; ask for {JSON}")
        return Answer([npy.encode(fitting.undo(outputs[0], body.added))], NPY)
    if accept == OCTETS or body.envelope is Envelope.V2:
        form = replace(body.form, all_binary=accept == OCTETS, by_name={}) if accept else body.form
        pieces, length = v2.encode_response(response, form=form, request_id=body.id)
        return Answer(pieces, JSON if length is None else OCTETS, length)
    return Answer([orjson.dumps(_document(outputs, body, instead), option=_JSON_OPTIONS)], JSON)


def _document(outputs: Sequence[Tensor], body: Body, instead: str) -> Any:
    values = {tensor.name: _nested(fitting.undo(tensor, body.added), instead) for tensor in outputs}
    if body.envelope is Envelope.INSTANCES and len(values) != 1:
        return {Envelope.INSTANCES.value: _rows(values)}
    value: Any = next(iter(values.values())) if len(values) == 1 else values
    return value if body.envelope is Envelope.BARE else {body.envelope.value: value}


def _nested(tensor: Tensor, instead: str) -> Any:
    """What orjson writes as a nested list: an array of numbers, or lists of strings; or the one value of a scalar."""
    flat = json.encode(tensor, instead=instead)
    if isinstance(flat, list):
        items = np.empty(len(flat), np.object_)
        items[:] = flat
        return items.reshape(tensor.shape).tolist()
    return flat.reshape(tensor.shape)[()]


def _rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    lengths = {len(value) if isinstance(value, list | np.ndarray) else -1 for value in values.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise NotAcceptable("the outputs have no rows in common; send 'inputs' in place of 'instances'")
    return [{name: value[row] for name, value in values.items()} for row in range(lengths.pop())]


def _of_v2(decoded: v2.InferBody, form: v2.OutputForm) -> Body:
    return Body(
        decoded.inputs,
        Envelope.V2,
        fitting.NOTHING,
        decoded.outputs,
        decoded.parameters,
        decoded.id,
        form,
        decoded.signature_name,
    )


def _form(body: bytes, specs: Sequence[TensorSpec]) -> Body:
    """``curl -d`` names the form type for whatever it sends: JSON where it parses, else the fields of a form."""
    scan.check(body)
    try:
        large.loads(body)
    except orjson.JSONDecodeError:
        # Each is a Python object of its own on the way: 2 MiB of them were 450 MiB.
        limits.check_count("escapes (%) in a form", body.count(b"%"), limits.MAX_STRINGS, f"send it as {JSON}")
        try:
            pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=multipart.MAX_PARTS)
        except ValueError:
            raise InvalidArgument(f"the form has more than {multipart.MAX_PARTS} fields") from None
        fields = {name.decode("utf-8", "replace"): (value, "") for name, value in pairs}
        if fields.keys() & (_BODY_NAMES | {spec.name for spec in specs}):
            return _named(fields, specs)
    return _whole(body, "", specs)


def _named(parts: Mapping[str, tuple[Buffer, str]], specs: Sequence[TensorSpec]) -> Body:
    known = {spec.name: spec for spec in specs}
    if len(parts) == 1:
        (name, (data, media)), *_ = parts.items()
        if name in _BODY_NAMES and name not in known:
            return _whole(data, media, specs)
    _check_names(parts, known)
    return _fitted([(of_part(known[name], data, media), known[name]) for name, (data, media) in parts.items()])


def _whole(data: Buffer, media: str, specs: Sequence[TensorSpec]) -> Body:
    """A body that is a document, or the value of the only input that must be given."""
    if not len(data) and not media.startswith("text/"):
        if all(spec.optional for spec in specs):
            return Body(())
        raise InvalidArgument("the body is empty; send the inputs as JSON, raw bytes, .npy or multipart/form-data")
    main = fitting.main_input(specs)
    takes_text = main is not None and main.datatype == "BYTES"
    if media == NPY or (bytes(data[:6]) == npy.MAGIC and not takes_text):
        spec = _only(specs, "an .npy file")
        return _fitted([(npy.decode(spec.name, spec.datatype, data), spec)])
    if not is_json(media):
        if main is not None and takes_text and (media or not isinstance(parsed_text(data), dict)):
            return _fitted([(of_part(main, data, media), main)])
        if main is not None and not looks_like_text(data):
            return _fitted([(of_raw_bytes(main, data), main)])
    return _of_document(parse(data, "the body"), bytes(data), specs)


def _of_document(message: Any, data: bytes, specs: Sequence[TensorSpec]) -> Body:
    names = {spec.name for spec in specs}
    booleans = b"true" in data or b"false" in data
    if not isinstance(message, dict):
        return _of_values({_only(specs, "a bare value").name: message}, specs, booleans)
    if _is_v2(message):
        decoded = v2.decode_request(data)
        return _of_v2(decoded, decoded.form)
    if message.keys() <= names:
        return _of_values(message, specs, booleans)
    if "instances" in message:
        return _of_values(_columns(message["instances"], specs), specs, booleans, Envelope.INSTANCES)
    if "inputs" in message:
        value = message["inputs"]
        values = value if isinstance(value, dict) else {_only(specs, "the value of 'inputs'").name: value}
        return _of_values(values, specs, booleans, Envelope.INPUTS)
    return _of_values(message, specs, booleans)


def _is_v2(message: dict[str, Any]) -> bool:
    entries = message.get("inputs")
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "name" in entries[0]


def _columns(rows: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    if not isinstance(rows, list):
        raise InvalidArgument("'instances' must be a list with an element for each row")
    if not any(isinstance(row, dict) for row in rows):
        if not rows:
            return {spec.name: [] for spec in specs if not spec.optional}
        return {_only(specs, "a row that is no object").name: rows}
    names = _named_in_rows(rows[0], specs)
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != names:
            told = _listed(names) or "no inputs"
            raise InvalidArgument(f"element {index} of 'instances' must be an object of {told}")
    return {spec.name: large.column(rows, spec.name) for spec in specs if spec.name in names}


def _named_in_rows(first: Any, specs: Sequence[TensorSpec]) -> Set[str]:
    """The inputs that each row must have: those of the first, which may leave out optional ones."""
    known = {spec.name for spec in specs}
    required = {spec.name for spec in specs if not spec.optional}
    return first.keys() if isinstance(first, dict) and required <= first.keys() <= known else known


def _of_values(
    values: Mapping[str, Any], specs: Sequence[TensorSpec], booleans: bool, envelope: Envelope = Envelope.BARE
) -> Body:
    known = {spec.name: spec for spec in specs}
    _check_names(values, known)
    tensors = [
        (fitting.of_json(known[name], value, may_hold_booleans=booleans), known[name]) for name, value in values.items()
    ]
    return _fitted(tensors, envelope)


def _fitted(pairs: Sequence[tuple[Tensor, TensorSpec]], envelope: Envelope = Envelope.BARE) -> Body:
    rules = fitting.TORCHSERVE_ROWS if envelope is Envelope.INSTANCES else fitting.TORCHSERVE
    fits = [fitting.fit(tensor, spec, rules) for tensor, spec in pairs]
    return Body(tuple(tensor for tensor, _ in fits), envelope, fitting.agreed([added for _, added in fits]))


def _check_names(given: Mapping[str, Any], known: Mapping[str, TensorSpec]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise InvalidArgument(f"unknown: {_listed(unknown)}; the model's inputs are {_listed(known)}")


def _only(specs: Sequence[TensorSpec], what: str) -> TensorSpec:
    main = fitting.main_input(specs)
    if main is None:
        names = f"this one's are {_listed(spec.name for spec in specs)}: send them by name"
        told = names if specs else "this one has none: send {}"
        raise InvalidArgument(f"{what} is for a model with one input; {told}")
    return main


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
