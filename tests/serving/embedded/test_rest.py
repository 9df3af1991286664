"""The REST contract: what predict answers, and how it is laid out. Runs as well against the real server."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.serving.embedded.rest import post

ANSWERS = {
    "the documentation's own example": ("half", '{"instances": [1.0, 2.0, 5.0]}', [3.5, 4.0, 5.5]),
    "a version": ("half/versions/1", '{"instances": [1.0]}', [2.5]),
    "a label": ("half/labels/stable", '{"instances": [1.0]}', [2.5]),
    "any case in the path": ("half/VERSIONS/1", '{"instances": [1.0]}', [2.5]),
    "an escaped name": ("h%61lf", '{"instances": [1.0]}', [3.5]),
    "rows with their dimension": ("half", '{"instances": [[1.0], [2.0]]}', [[3.5], [4.0]]),
    "integers to a float": ("half", '{"instances": [1, 2]}', [3.5, 4.0]),
    "a signature": ("types", '{"signature_name": "int64", "instances": [9007199254740993]}', [9007199254740993]),
    "an empty row": ("half", '{"instances": [[]]}', [[]]),
    "uint64 to its end": ("types", '{"signature_name": "uint64", "instances": [18446744073709551615]}', [2**64 - 1]),
    "int8 wraps": ("types", '{"signature_name": "int8", "instances": [300]}', [44]),
    "uint8 wraps": ("types", '{"signature_name": "uint8", "instances": [-1]}', [255]),
    "booleans": ("types", '{"signature_name": "bool", "instances": [true, false]}', [True, False]),
    "doubles": ("types", '{"signature_name": "float64", "instances": [0.1]}', [0.1]),
    "float32 overflows to infinity": ("half", '{"instances": [1e39]}', [float("inf")]),
    "text after the end": ("half", '{"instances": [1.0]} and more', [3.5]),
    "the first of equal keys": ("half", '{"instances": [1.0], "instances": ["x"]}', [3.5]),
    "a byte order mark": ("half", '\ufeff{"instances": [1.0]}', [3.5]),
    "unknown keys": ("half", '{"instances": [1.0], "other": 1}', [3.5]),
    "two inputs": (
        "sums",
        '{"instances": [{"a": [1, 2], "b": [3, 4]}]}',
        [{"difference": [-2, -2], "sum": [4.0, 6.0]}],
    ),
    "one input by name": ("half", '{"instances": [{"x": 1.0}]}', [3.5]),
    "strings": ("text", '{"signature_name": "plain", "instances": ["a", {"b64": "YmM="}]}', ["a", "bc"]),
    "base64 without padding": ("text", '{"signature_name": "plain", "instances": [{"b64": "YmM"}]}', ["bc"]),
    "bytes": ("text", '{"signature_name": "bytes", "instances": ["a"]}', [{"b64": "YQ=="}]),
    "escapes": ("text", '{"signature_name": "plain", "instances": ["\\u00e4\\n\\""]}', ['ä\n"']),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_rows_are_answered(client: httpx.Client, case: str) -> None:
    model, body, expected = ANSWERS[case]
    answer = post(client, model, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.content) == {"predictions": expected}


COLUMNS = {
    "a list": ("half", '{"inputs": [1.0, 2.0]}', [3.5, 4.0]),
    "a scalar": ("half", '{"inputs": 1.0}', 3.5),
    "an empty list": ("half", '{"inputs": []}', []),
    "one input by name": ("half", '{"inputs": {"x": [[1.0]]}}', [[3.5]]),
    "surplus names are ignored": ("half", '{"inputs": {"x": [1.0], "z": 1}}', [3.5]),
    "two inputs": (
        "sums",
        '{"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}',
        {"difference": [[-2, -2]], "sum": [[4.0, 6.0]]},
    ),
    "base64": ("text", '{"signature_name": "bytes", "inputs": {"b64": "/wA="}}', {"b64": "/wA="}),
    "an output without batch": (
        "sums",
        '{"signature_name": "total", "inputs": {"a": [[1, 2]], "b": [[3, 4]]}}',
        3.0,
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_answered(client: httpx.Client, case: str) -> None:
    model, body, expected = COLUMNS[case]
    answer = post(client, model, body)
    assert (answer.status_code, json.loads(answer.content)) == (200, {"outputs": expected})


def test_strings_go_out_as_they_came_in(client: httpx.Client) -> None:
    """Even where they are no UTF-8."""
    answer = post(client, "text", b'{"signature_name": "plain", "instances": ["\xff\xc3\xa4"]}')
    assert answer.content == b'{\n    "predictions": ["\xff\xc3\xa4"\n    ]\n}'


LAYOUTS = {
    "rows": ("half", '{"instances": [1.0, 2.0]}', '{\n    "predictions": [3.5, 4.0\n    ]\n}'),
    "rows of lists": ("half", '{"instances": [[1.0], [2.0]]}', '{\n    "predictions": [[3.5], [4.0]\n    ]\n}'),
    "objects": (
        "sums",
        '{"instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [1, 2], "b": [3, 4]}]}',
        '{\n    "predictions": [\n'
        '        {\n            "difference": [-2, -2],\n            "sum": [4.0, 6.0]\n        },\n'
        '        {\n            "difference": [-2, -2],\n            "sum": [4.0, 6.0]\n        }\n    ]\n}',
    ),
    "columns": ("half", '{"inputs": [[1.0]]}', '{\n    "outputs": [\n        [\n            3.5\n        ]\n    ]\n}'),
    "a value": ("half", '{"inputs": 1.0}', '{\n    "outputs": 3.5\n}'),
    "decimals": (
        "types",
        '{"signature_name": "float32", "instances": [0.1, 1234567, 9e6, 3e-5, 0.3333333333, 16777217, -0.0]}',
        '{\n    "predictions": [0.1, 1234567.0, 9e+06, 3e-05, 0.333333343, 16777216.0, -0.0\n    ]\n}',
    ),
    "doubles": (
        "types",
        '{"signature_name": "float64", "instances": [0.1, 0.30000000000000004, 1e300]}',
        '{\n    "predictions": [0.1, 0.30000000000000004, 1e+300\n    ]\n}',
    ),
    "not finite": (
        "types",
        '{"signature_name": "reciprocal", "instances": [0.0, -0.0, NaN, Infinity, -Inf]}',
        '{\n    "predictions": [Infinity, -Infinity, NaN, 0.0, -0.0\n    ]\n}',
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_layout_is_rapidjsons(client: httpx.Client, case: str) -> None:
    model, body, expected = LAYOUTS[case]
    assert post(client, model, body).text == expected
