"""The bodies of TensorFlow Serving's predict over REST: rows (``instances``) and columns (``inputs``).

Source: tensorflow_serving/g3doc/api_rest.md and util/json_tensor.cc, whose order of checks and texts are kept.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from gateway.codecs import fitting, large
from gateway.codecs import tfserving_json as json
from gateway.codecs.tfserving_json import is_base64, shown
from gateway.errors import DuetError, InvalidArgument
from gateway.types import DEFAULT_SIGNATURE, Array, Signature, Tensor, TensorSpec

_KEYS = ("signature_name", "instances", "inputs")


@dataclass(frozen=True, slots=True)
class PredictBody:
    """A body of which the syntax is checked; `inputs` needs the signature that it names."""

    members: dict[str, Any]
    signature_name: str

    @property
    def rows(self) -> bool:
        return "instances" in self.members

    def inputs(self, signature: Signature) -> tuple[Tensor, ...]:
        """Raises InvalidArgument, or Unimplemented for a datatype that has no JSON form.

        TensorFlow Serving's REST knows neither default values, nor signatures without inputs; its gRPC knows both, and
        here both are the same.
        """
        members = self.members
        if not signature.inputs:
            return _nothing(self)
        if self.rows:
            if "inputs" in members:
                raise _malformed(
                    members, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
                )
            return _from_rows(members, signature)
        if "inputs" not in members:
            raise InvalidArgument("Missing 'inputs' or 'instances' key")
        return _from_columns(members["inputs"], signature)


def decode_predict(body: bytes) -> PredictBody:
    """Raises InvalidArgument for what is no JSON, no object, or names a signature by something other than a string."""
    members = json.parse(body, keys=_KEYS)
    return PredictBody(members, signature_name(members))


def signature_name(members: dict[str, Any]) -> str:
    name = members.get("signature_name", "")
    if not isinstance(name, str):
        raise _malformed(members, "not formatted correctly. 'signature_name' key must be a string value.")
    return name or DEFAULT_SIGNATURE


def unknown_signature(name: str) -> InvalidArgument:
    return InvalidArgument(f'Serving signature name: "{name}" not found in signature def')


def encode_predict(outputs: tuple[Tensor, ...], *, rows: bool) -> bytes:
    """``{"predictions": [...]}`` for a request in rows, ``{"outputs": ...}`` for one in columns.

    A single output is bare, several go by name. Raises InvalidArgument for what is no rows, or has no JSON form.
    """
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    if rows:
        _check_batch(outputs)
    if len(outputs) == 1:
        return json.dumps({"predictions" if rows else "outputs": json.encode(outputs[0])})
    encoded = {tensor.name: json.encode(tensor) for tensor in outputs}
    if not rows:
        return json.dumps({"outputs": encoded})
    names = tuple(encoded)
    return json.dumps(
        {"predictions": [dict(zip(names, row, strict=True)) for row in zip(*encoded.values(), strict=True)]}
    )


def _malformed(members: dict[str, Any], text: str) -> InvalidArgument:
    return InvalidArgument(f"JSON Value: {shown(members)} {text}")


def _check_batch(outputs: tuple[Tensor, ...]) -> None:
    size = outputs[0].shape[0] if outputs[0].shape else 0
    for tensor in outputs:
        if not tensor.shape:
            raise InvalidArgument(f"Tensor name: {tensor.name} has no shape information ")
        if tensor.shape[0] != size:
            raise InvalidArgument(
                f"Tensor name: {tensor.name} has inconsistent batch size: {tensor.shape[0]} expecting: {size}"
            )


def _from_columns(value: Any, signature: Signature) -> tuple[Tensor, ...]:
    specs = signature.inputs
    if isinstance(value, dict) and not is_base64(value):
        for spec in specs:
            if spec.name not in value and not spec.optional:
                raise InvalidArgument(f"Missing named input: {spec.name} in 'inputs' object.")
        return tuple(json.tensor(spec.name, spec.datatype, value[spec.name]) for spec in specs if spec.name in value)
    main = fitting.main_input(specs)
    if main is None:
        raise InvalidArgument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return (json.tensor(main.name, main.datatype, value),)


def _nothing(body: PredictBody) -> tuple[Tensor, ...]:
    """The inputs of a signature that has none."""
    value = body.members.get("inputs")
    if body.rows or not isinstance(value, dict) or is_base64(value):
        name = body.members.get("signature_name") or "DEFAULT"
        raise InvalidArgument(
            f'Failed to get input map for signature: {name}. It has no inputs; send {{"inputs": {{}}}}'
        )
    return ()


def _from_rows(members: dict[str, Any], signature: Signature) -> tuple[Tensor, ...]:
    rows = members["instances"]
    if not isinstance(rows, list):
        raise _malformed(members, "Excepting 'instances' to be an list/array")
    if not rows:
        raise _malformed(members, "No values in 'instances' array")
    main = fitting.main_input(signature.inputs)
    if not isinstance(rows[0], dict) and main is None:
        raise InvalidArgument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if _is_row_object(rows[0]):
        return _from_objects(rows, signature)
    if dict in large.kinds(rows):
        for index, row in enumerate(rows):
            if _is_row_object(row):
                raise InvalidArgument(f"Expecting value/list but got object at item {index} of input list")
    if main is None:  # base64 objects, which may be values and are no rows
        raise InvalidArgument("instances are values, but expecting objects: the signature has several inputs")
    return (_column(main, rows, ""),)


def _from_objects(rows: list[Any], signature: Signature) -> tuple[Tensor, ...]:
    """Rows may leave out optional inputs, all of them the same ones."""
    known = {spec.name for spec in signature.inputs}
    required = {spec.name for spec in signature.inputs if not spec.optional}
    names = rows[0].keys() if required <= rows[0].keys() <= known else known
    for index, row in enumerate(rows):
        if not _is_row_object(row):
            raise InvalidArgument(f"Expecting object but got list at item {index} of input list")
        if row.keys() != names:
            _refuse_keys(row, known, names, index)
    specs = [spec for spec in signature.inputs if spec.name in names]
    return tuple(_column(spec, large.column(rows, spec.name), f" key: {spec.name}") for spec in specs)


def _is_row_object(row: Any) -> bool:
    return isinstance(row, dict) and not is_base64(row)


def _refuse_keys(row: dict[str, Any], known: Set[str], names: Set[str], index: int) -> None:
    for name in row:
        if name not in known:
            error = InvalidArgument(f"JSON object: does not have named input: {name}")
            raise json.wrapped(error, f"element: {index} key: {name}")
    raise InvalidArgument(
        f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} "
        f"keys must be equal to: {','.join(sorted(names))}"
    )


def _column(spec: TensorSpec, values: list[Any], key: str) -> Tensor:
    """One input of all rows. An error tells the row."""
    try:
        return json.tensor(spec.name, spec.datatype, values)
    except DuetError:
        index = _first_fault(spec, values)
        try:
            _check_like(_row(spec, values[0]), _row(spec, values[index]))
        except DuetError as error:
            raise json.wrapped(error, f"element: {index}{key}") from None
        raise


def _row(spec: TensorSpec, value: Any) -> Array:
    return json.tensor(spec.name, spec.datatype, value).data


def _first_fault(spec: TensorSpec, values: list[Any]) -> int:
    """The first row that is wrong in itself or unlike row 0. Halving: row by row would take seconds of a large body."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        if _alike(spec, values[0], values[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _alike(spec: TensorSpec, first: Any, values: list[Any]) -> bool:
    try:
        return _row(spec, values).shape[1:] == _row(spec, first).shape
    except DuetError:
        return False


def _check_like(wanted: Array, got: Array) -> None:
    if wanted.shape == got.shape:
        return
    if wanted.size != got.size:
        raise InvalidArgument(f"Expecting tensor size: {wanted.size} but got: {got.size}")
    shapes = [str(list(array.shape)).replace(" ", "") for array in (wanted, got)]
    raise InvalidArgument(f"Expecting shape {shapes[0]} but got: {shapes[1]}")
