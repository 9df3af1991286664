"""Base64 in place of BYTES elements, for those who ask for it: JSON carries UTF-8 text alone.

A tensor asks by a parameter of its own, and all BYTES tensors of a request and its answer by one of the request's:
``{"content_encoding": "base64"}``, or MLServer's ``{"content_type": "base64"}``. It holds however the tensor travels.
An element may also be an object, ``{"b64": "..."}``, as in KServe's and TensorFlow Serving's JSON (`codecs.json`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

import numpy as np

from gateway.codecs.json import of_base64
from gateway.errors import InvalidArgument
from gateway.types import Parameter, Tensor

BASE64 = "base64"
ENCODING, TYPE = "content_encoding", "content_type"
#: What says that elements are as they are, to a request that asks for Base64 otherwise.
_PLAIN = frozenset({"identity", "utf-8"})


def asked(parameters: Mapping[str, Parameter], of: str, default: str = "") -> str:
    """The name of the parameter that asks for Base64, or an empty one; ``default`` where none says anything.

    MLServer's ``content_type`` has many values, and the others mean nothing here. Raises InvalidArgument for another
    encoding, which would be taken for text otherwise.
    """
    if ENCODING in parameters:
        encoding = parameters[ENCODING]
        if encoding != BASE64 and encoding not in _PLAIN:
            raise InvalidArgument(
                f"parameter {ENCODING!r} of {of} is {encoding!r}; known are {BASE64!r} and, for text, 'utf-8'"
            )
        return ENCODING if encoding == BASE64 else ""
    if TYPE in parameters:
        return TYPE if parameters[TYPE] == BASE64 else ""
    return default


def check_datatype(name: str, datatype: str) -> None:
    if datatype != "BYTES":
        raise InvalidArgument(f"tensor {name!r}: {BASE64} is for BYTES, and its datatype is {datatype}")


def decoded(tensor: Tensor) -> Tensor:
    """Of a tensor whose elements are Base64. Raises InvalidArgument, which names it."""
    items = np.empty(tensor.data.size, np.object_)
    for index, item in enumerate(tensor.data.ravel()):
        items[index] = of_base64(tensor.name, item)
    return Tensor(tensor.name, tensor.datatype, items.reshape(tensor.shape))


def encoded(tensor: Tensor) -> Tensor:
    items = np.empty(tensor.data.size, np.object_)
    items[:] = [b64encode(item) for item in tensor.data.ravel()]
    return Tensor(tensor.name, tensor.datatype, items.reshape(tensor.shape))
