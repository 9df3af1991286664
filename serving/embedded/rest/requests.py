"""Request bodies: which key holds what (json_tensor.cc § FillPredictRequestFromJson and its neighbours)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.model import SignatureDef
from serving.embedded.rest import parsing, reading
from serving.embedded.tensors import Array

_FIRST_INT64, _LAST_INT64, _LAST_UINT64 = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1


def document(body: bytes) -> tuple[dict[str, Any], str]:
    """The object and its signature's name, which may be empty. Raises ServingError (INVALID_ARGUMENT)."""
    value = parsing.parse(body)
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {reading.shown(value)} Is not object")
    name = value.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {reading.shown(value)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return value, name


def tensors(value: Mapping[str, Any], signature: SignatureDef) -> tuple[dict[str, Array], bool]:
    """Arrays by input name, and whether they came in rows. Raises ServingError."""
    if "instances" in value and "inputs" in value:
        raise _format_error(
            value, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in value:
        return _rows(value, signature), True
    if "inputs" in value:
        return _columns(value["inputs"], signature), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def examples(value: Mapping[str, Any]) -> input_pb2.Input:
    """Of a classify or regress body. Raises ServingError (INVALID_ARGUMENT)."""
    source = input_pb2.Input()
    into = source.example_list.examples
    if "context" in value:
        source.example_list_with_context.context.CopyFrom(_example(value["context"]))
        into = source.example_list_with_context.examples
    if "examples" not in value:
        raise _format_error(value, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(value["examples"], list):
        raise _format_error(value, "Expecting 'examples' value to be an list/array")
    if not value["examples"]:
        raise _format_error(value, "'examples' value is an empty array")
    into.extend(_example(item) for item in value["examples"])
    return source


def _rows(value: Mapping[str, Any], signature: SignatureDef) -> dict[str, Array]:
    instances = value["instances"]
    if not isinstance(instances, list):
        raise _format_error(value, "Excepting 'instances' to be an list/array")
    if not instances:
        raise _format_error(value, "No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(signature.inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    if _is_object(instances[0]):
        return _objects(instances, signature)
    for index, item in enumerate(instances):
        if _is_object(item):
            raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
    name, info = next(iter(signature.inputs.items()))
    return {name: reading.rows(instances, info.dtype, _at_element)}


def _objects(instances: list[Any], signature: SignatureDef) -> dict[str, Array]:
    required = set(signature.inputs)
    for index, item in enumerate(instances):
        if not _is_object(item):
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        for name in item:
            if name not in required:
                raise _at_key(name)(index, invalid_argument(f"JSON object: does not have named input: {name}"))
        if set(item) != required:
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {reading.shown(item)} "
                f"keys must be equal to: {','.join(sorted(required))}"
            )
    return {
        name: reading.rows([item[name] for item in instances], info.dtype, _at_key(name))
        for name, info in signature.inputs.items()
    }


def _columns(value: Any, signature: SignatureDef) -> dict[str, Array]:
    if _is_object(value):
        for name in sorted(signature.inputs):
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        return {name: reading.tensor(value[name], info.dtype) for name, info in signature.inputs.items()}
    if len(signature.inputs) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple "
            "input tensors required as per tensorinfo_map"
        )
    name, info = next(iter(signature.inputs.items()))
    return {name: reading.tensor(value, info.dtype)}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not reading.is_base64(value)


def _at_element(index: int, error: ServingError) -> ServingError:
    return invalid_argument(f"Failed to process element: {index} of 'instances' list. Error: {_told(error)}")


def _at_key(name: str) -> Any:
    def at(index: int, error: ServingError) -> ServingError:
        return invalid_argument(
            f"Failed to process element: {index} key: {name} of 'instances' list. Error: {_told(error)}"
        )

    return at


def _told(error: ServingError) -> str:
    return f"{error.code.name}: {error.message}"


def _format_error(value: Any, words: str) -> ServingError:
    return invalid_argument(f"JSON Value: {reading.shown(value)} {words}")


def _example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {reading.type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = feature_pb2.Feature()
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)
        example.features.feature[name].CopyFrom(feature)
    return example


def _add(item: Any, name: str, feature: feature_pb2.Feature) -> None:
    """An integer literal makes an int64 feature, a decimal one a float feature; the first element fixes the kind."""
    if isinstance(item, str) or reading.is_base64(item):
        _fix(feature, "bytes_list", name)
        feature.bytes_list.value.append(reading.string(item))
    elif isinstance(item, int) and _FIRST_INT64 <= item <= _LAST_INT64:  # true and false among them
        _fix(feature, "int64_list", name)
        feature.int64_list.value.append(int(item))
    elif isinstance(item, int) and 0 < item <= _LAST_UINT64:
        _fix(feature, "int64_list", name)
        raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(item, float | int):
        _fix(feature, "float_list", name)
        feature.float_list.value.append(float(item))
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {reading.type_name(item)}")


def _fix(feature: feature_pb2.Feature, kind: str, name: str) -> None:
    found = feature.WhichOneof("kind")
    if found not in (None, kind):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {found.removesuffix('_list')}"
        )
