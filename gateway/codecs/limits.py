"""How much one message may ask for, in numbers that are checked before anything is made of it.

A message's size bounds what its fields hold. It does not bound the product of two of them: a context that goes into
each example, a value that is repeated to a shape. Nor does it bound what Python makes of many small fields: an empty
string takes two bytes on the wire, and a hundred in memory.
"""

from __future__ import annotations

from math import prod

from gateway.errors import InvalidArgument

#: Inputs, outputs, parameters or parts of one request. `gateway.layers.bounds` holds models to fewer.
MAX_TENSORS = 256
#: Tasks of one MultiInference: each names another signature of one model.
MAX_TASKS = 64
#: Examples of one Classify, Regress or MultiInference.
MAX_EXAMPLES = 1 << 15
#: Elements of BYTES in one request. Each is a Python object, and takes about half a microsecond to look at and to make.
MAX_STRINGS = 1 << 15
#: Numbers of all examples of one body: protobuf's lists take up to three times their size while they grow.
MAX_EXAMPLE_VALUES = 2 << 20
#: What copies of one field may take: the context in each example, a last value in all elements that are left.
MAX_COPIED_BYTES = 4 << 20
#: What numbers may take in the model's wider type, beyond twice what they take as they came: 4M of UINT8 as FP32.
MAX_WIDENED_BYTES = 8 << 20
#: Rows of a tensor without elements. Nothing has to be sent for them, and an answer in JSON writes each.
MAX_EMPTY_ROWS = 1 << 16
#: The most of a name, or another word, that a message may bring.
MAX_NAME = 1024


def check_count(what: str, count: int, most: int, hint: str = "send fewer") -> None:
    """``what`` is the field as the client knows it, e.g. ``'tasks'``. Raises InvalidArgument."""
    if count > most:
        raise InvalidArgument(f"{count} {what}; at most {most} are taken in one request: {hint}")


def check_name(what: str, text: str) -> None:
    """``text`` is quoted in errors, some of which hold several. Raises InvalidArgument."""
    if len(text) > MAX_NAME:
        raise InvalidArgument(f"{what} has {len(text)} characters, {text[:64]!r}...; at most {MAX_NAME} are taken")


class Budget:
    """What one request may ask for in all, over its tensors."""

    __slots__ = ("_copied_bytes", "_example_values", "_strings")

    def __init__(self) -> None:
        self._strings = 0
        self._copied_bytes = 0
        self._example_values = 0

    def strings(self, name: str, count: int) -> None:
        """Takes ``count`` elements of BYTES for the tensor ``name``. Raises InvalidArgument."""
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise InvalidArgument(
                f"tensor {name!r}: {self._strings} strings; at most {MAX_STRINGS} are taken in one request: "
                "send fewer rows at once"
            )

    def example_values(self, name: str, count: int) -> None:
        """Takes ``count`` values of the feature ``name``. Raises InvalidArgument."""
        self._example_values += count
        if self._example_values > MAX_EXAMPLE_VALUES:
            raise InvalidArgument(
                f"Feature: {name}: the examples hold more than {MAX_EXAMPLE_VALUES} values, which is all that is taken "
                "in one request; send fewer examples at once, or send them over gRPC"
            )

    def copies(self, what: str, size: int, copies: int) -> None:
        """Takes ``copies`` of ``what``, which is ``size`` bytes. Raises InvalidArgument."""
        self._copied_bytes += size * copies
        if self._copied_bytes > MAX_COPIED_BYTES:
            raise InvalidArgument(
                f"{what}: {copies} copies of its {size} bytes are more than the {MAX_COPIED_BYTES} bytes that copies "
                "may take in one request; send all values, or fewer rows at once"
            )


def check_empty(name: str, shape: tuple[int, ...]) -> None:
    """Of a tensor that may have no elements. Raises InvalidArgument."""
    if 0 in shape and prod(size or 1 for size in shape) > MAX_EMPTY_ROWS:
        raise InvalidArgument(
            f"tensor {name!r}: shape {list(shape)} is too large for a tensor without elements: the product of its "
            f"other dimensions is at most {MAX_EMPTY_ROWS}"
        )


def check_widened(what: str, given_bytes: int, wider_bytes: int) -> None:
    """Comes before numbers are converted to a wider type. Raises InvalidArgument."""
    if wider_bytes > 2 * given_bytes + MAX_WIDENED_BYTES:
        raise InvalidArgument(
            f"{what} would take {wider_bytes} bytes in the model's type, and has {given_bytes} as it is; send it "
            "in the model's type, or fewer rows at once"
        )
