"""What the Open Inference Protocol and Triton's extensions tell about models, as JSON objects.

Sources: open-inference-protocol ``inference_rest.md``; Triton ``docs/protocol/extension_{model_configuration,
model_repository,statistics}.md`` and its ``model_config.proto``. The gRPC messages have the same members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.types import DATATYPES, ModelMetadata, Signature, TensorSpec, VersionMetadata

#: Triton's extensions that are offered, by its names for them.
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]

#: The gateway sets no limit of its own to a batch; a body's bytes are what is limited.
_UNLIMITED_BATCH = (1 << 31) - 1

#: Triton's name for each datatype; what a server declares beyond them is TYPE_INVALID.
_DATA_TYPES = {name: f"TYPE_{name}" for name in DATATYPES} | {"BYTES": "TYPE_STRING"}
_BACKENDS = {"tensorflow_savedmodel": "tensorflow", "pytorch_torchscript": "pytorch"}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of a model in the index; ``version`` is None where no version is known."""

    name: str
    version: int | None
    ready: bool
    reason: str

    def document(self) -> dict[str, Any]:
        # MLServer's clients need the member `reason`, KServe's and Triton's take any string.
        known = {} if self.version is None else {"version": str(self.version)}
        return {"name": self.name, **known, "state": "READY" if self.ready else "UNAVAILABLE", "reason": self.reason}


def metadata(described: ModelMetadata, signature: Signature | None) -> dict[str, Any]:
    """The body of ``GET /v2/models/{model}``.

    An input that may be left out has ``optional``, a member of our own: the protocol has none, and clients leave unread
    what they do not know. The gRPC message has no field for it; there Triton's ModelConfig tells.
    """
    return {
        "name": described.model,
        "versions": [str(version.version) for version in described.versions.values() if version.ready],
        "platform": described.platform,
        "inputs": [_spec(spec) | _optional(spec) for spec in signature.inputs] if signature else [],
        "outputs": [_spec(spec) for spec in signature.outputs] if signature else [],
    }


def config(described: ModelMetadata, version: VersionMetadata) -> dict[str, Any]:
    """Triton's ModelConfig. Where each tensor's first dimension is free, that is the batch, and no dimension of its."""
    signature = version.signature or Signature((), ())
    batched = all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))
    return {
        "name": described.model,
        "platform": described.platform,
        "backend": _BACKENDS.get(described.platform, ""),
        "version_policy": {"specific": {"versions": [v.version for v in described.versions.values() if v.ready]}},
        "max_batch_size": _UNLIMITED_BATCH if batched and signature.inputs else 0,
        "input": [_config_spec(spec, batched) | _optional(spec) for spec in signature.inputs],
        "output": [_config_spec(spec, batched) for spec in signature.outputs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.told_shape)}


def _optional(spec: TensorSpec) -> dict[str, Any]:
    return {"optional": True} if spec.optional else {}


def _config_spec(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    dims = list(spec.shape[1:] if batched else spec.told_shape)
    return {"name": spec.name, "data_type": _DATA_TYPES.get(spec.datatype, "TYPE_INVALID"), "dims": dims}
