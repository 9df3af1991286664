"""The REST contract: the order of predict's checks, statuses and texts. Runs as well against the real server."""

from __future__ import annotations

import httpx
import pytest

from tests.serving.embedded.rest import error, post

SUMS_ROW = '{"instances": [{"a": [1, 2], "b": [3, 4]}, %s]}'
ROW = "Failed to process element: %d of 'instances' list. Error: INVALID_ARGUMENT: %s"
REFUSED = {
    "nothing": ("half", "", 400, "JSON Parse error: The document is empty"),
    "no JSON": ("half", "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    "a number too big": (
        "half",
        '{"instances": [1e400]}',
        400,
        "JSON Parse error: Number too big to be stored in double. at offset: 15",
    ),
    "a lone surrogate": ("half", '{"instances": ["\\ud800"]}', 400, "JSON Parse error: "),
    "no object": ("half", "[1]", 400, "JSON Value: [\n    1\n] Is not object"),
    "a name that is no string": ("half", '{"signature_name": 1}', 400, "'signature_name' key must be a string value."),
    "bad JSON to an unknown model": ("nope", "{", 400, "JSON Parse error: "),
    "unknown model": ("nope", "{}", 404, "Servable not found for request: Latest(nope)"),
    "unknown version": ("half/versions/9", "{}", 404, "Servable not found for request: Specific(half, 9)"),
    "unknown label": ("half/labels/nope", "{}", 400, "Unrecognized servable version label: nope"),
    "unknown signature": (
        "half",
        '{"signature_name": "s"}',
        400,
        'Serving signature name: "s" not found in signature def',
    ),
    "neither key": ("half", "{}", 400, "Missing 'inputs' or 'instances' key"),
    "both keys": (
        "half",
        '{"inputs": [1.0], "instances": [1.0]}',
        400,
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    "no list": ("half", '{"instances": 1}', 400, "Excepting 'instances' to be an list/array"),
    "an empty list": ("half", '{"instances": []}', 400, "No values in 'instances' array"),
    "a string to a float": (
        "half",
        '{"instances": [1.0, "x"]}',
        400,
        ROW % (1, 'JSON Value: "x" Type: String is not of expected type: float'),
    ),
    "true to a float": (
        "half",
        '{"instances": [true]}',
        400,
        ROW % (0, "JSON Value: true Type: True is not of expected type: float"),
    ),
    "null": (
        "half",
        '{"instances": [null]}',
        400,
        ROW % (0, "JSON Value: null Type: Null is not of expected type: float"),
    ),
    "decimal to an integer": (
        "types",
        '{"signature_name": "int32", "instances": [7.0]}',
        400,
        ROW % (0, "JSON Value: 7.0 Type: Number is not of expected type: int32"),
    ),
    "exponent to an integer": (
        "types",
        '{"signature_name": "int64", "instances": [2e3]}',
        400,
        "of expected type: int64",
    ),
    "out of int32": ("types", '{"signature_name": "int8", "instances": [2147483648]}', 400, "of expected type: int8"),
    "out of int64": (
        "types",
        '{"signature_name": "int64", "instances": [9223372036854775808]}',
        400,
        "of expected type: int64",
    ),
    "negative to uint32": ("types", '{"signature_name": "uint32", "instances": [-1]}', 400, "of expected type: uint32"),
    "one to a bool": ("types", '{"signature_name": "bool", "instances": [1]}', 400, "of expected type: bool"),
    "number to a string": ("text", '{"instances": [1]}', 400, "of expected type: string"),
    "half in rows": (
        "types",
        '{"signature_name": "float16", "instances": [1.0]}',
        400,
        "Error: UNIMPLEMENTED: Conversion of JSON Value: 1.0 to type: half",
    ),
    "half in columns": (
        "types",
        '{"signature_name": "float16", "inputs": [1.0]}',
        501,
        "Conversion of JSON Value: 1.0 to type: half",
    ),
    "bfloat16": ("types", '{"signature_name": "bfloat16", "inputs": 1}', 501, "JSON Value: 1 to type: bfloat16"),
    "uint16": ("types", '{"signature_name": "uint16", "inputs": [1]}', 501, "JSON Value: 1 to type: uint16"),
    "rows of other sizes": (
        "half",
        '{"instances": [[1.0, 2.0], [1.0]]}',
        400,
        ROW % (1, "Expecting tensor size: 2 but got: 1"),
    ),
    "rows of other shapes": (
        "half",
        '{"instances": [[1.0, 2.0], [[1.0, 2.0]]]}',
        400,
        ROW % (1, "Expecting shape [2] but got: [1,2]"),
    ),
    "ragged row": (
        "half",
        '{"instances": [[[1.0, 2.0], [1.0]]]}',
        400,
        ROW % (0, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ),
    "ragged column": (
        "half",
        '{"inputs": [[1.0, 2.0], [1.0]]}',
        400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    "too deep": ("half", '{"inputs": [1.0, [2.0]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
    "too shallow": (
        "half",
        '{"inputs": [[1.0], 2.0]}',
        400,
        "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    "plain rows to two inputs": (
        "sums",
        '{"instances": [1.0]}',
        400,
        "instances is a plain list, but expecting list",
    ),
    "plain column to two inputs": ("sums", '{"inputs": [1.0]}', 400, "inputs is a plain value/list, but expecting an"),
    "a missing key": ("sums", SUMS_ROW % '{"a": [1, 2]}', 400, "keys must be equal to: a,b"),
    "a surplus key": (
        "sums",
        SUMS_ROW % '{"a": [1, 2], "b": [3, 4], "c": 1}',
        400,
        "JSON object: does not have named input: c",
    ),
    "a list among objects": ("sums", SUMS_ROW % "[1]", 400, "Expecting object but got list at item 1 of input list"),
    "an object among values": (
        "half",
        '{"instances": [1.0, {"x": 1.0}]}',
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    "a missing input": ("sums", '{"inputs": {"a": [[1, 2]]}}', 400, "Missing named input: b in 'inputs' object."),
    "bad base64": ("text", '{"instances": [{"b64": "?"}]}', 400, "Unable to base64 decode"),
    "an object that is no base64": (
        "text",
        '{"inputs": ["a", {"b64": 1}]}',
        400,
        "not formatted correctly for base64 data",
    ),
    "rows of an output without batch": (
        "sums",
        '{"signature_name": "total", "instances": [{"a": [1, 2], "b": [3, 4]}]}',
        400,
        "Tensor name: total has no shape information ",
    ),
    "rows of uneven outputs": (
        "sums",
        '{"signature_name": "uneven", "instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [1, 2], "b": [3, 4]}]}',
        400,
        "Tensor name: first has inconsistent batch size: 1 expecting: 2",
    ),
    "brackets without end": ("half", '{"instances": ' + "[" * 100_000, 400, "JSON Parse error: "),
    "deep brackets": ("half", '{"instances": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_has_its_status_and_its_text(client: httpx.Client, case: str) -> None:
    model, body, status, text = REFUSED[case]
    found, told = error(post(client, model, body))
    assert (found, text in told) == (status, True), told
