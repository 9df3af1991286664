"""The settings of a server that speaks the Open Inference Protocol: Triton, KServe, MLServer and others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.servers.settings import ServerSettings, checked_address
from gateway.types import DATATYPES

_FORMS = "grpc://host:port, http://host:port or https://host:port"


class V2Tensor(BaseModel):
    """An input or an output; -1 in ``shape`` is a free dimension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    datatype: str
    shape: tuple[Annotated[int, Field(ge=-1)], ...]

    @field_validator("datatype")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"{value!r} is no datatype; known are {', '.join(DATATYPES)}")
        return value


class V2Signature(BaseModel):
    """What a model takes and gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[V2Tensor, ...]
    outputs: Annotated[tuple[V2Tensor, ...], Field(min_length=1)]


class V2Settings(ServerSettings):
    """``endpoint``: its gRPC (``grpc://host:port``, encrypted if ``tls`` is set) or its REST (``http://``, ``https://``).

    A name may stand for several addresses, and they may change.
    ``binary``: whether tensors travel in the binary extension over REST. Left out, they do if the server lists
    ``binary_tensor_data`` among its extensions, as Triton does. KServe takes the extension and does not list it.
    ``signatures``: inputs and outputs of models that the server does not describe, by the models' names.
    """

    kind: Literal["v2"]
    binary: bool | None = None
    signatures: dict[str, V2Signature] = Field(default={})

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, value: str) -> str:
        url = value.rstrip("/")
        return checked_address(url if url.startswith(("grpc://", "http://", "https://")) else "", url, _FORMS)

    @model_validator(mode="after")
    def _scheme_fits(self) -> V2Settings:
        if self.scheme != "grpc" and (self.scheme == "https") != (self.tls is not None):
            raise ValueError("endpoint is https:// if tls is set, and http:// if it is not")
        if self.scheme == "grpc" and self.binary is not None:
            raise ValueError("binary is for REST; over gRPC tensors are always binary")
        return self
