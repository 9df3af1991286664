"""The REST contract: classify and regress. Runs as well against the real server."""

from __future__ import annotations

import httpx
import pytest

from tests.serving.embedded.rest import error, post

CLASSIFY = '{"signature_name": "classify_named", "examples": [{"x": 1.0}, {"x": 2.0}]}'


def test_classify_answers_pairs_of_label_and_score(client: httpx.Client) -> None:
    answer = post(client, "half", CLASSIFY, "classify")
    assert answer.text == '{\n    "results": [[["label", 3.5]], [["label", 4.0]]\n    ]\n}'


@pytest.mark.parametrize(
    "body",
    [
        '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": [2.0]}]}',
        '{"signature_name": "regress_x_to_y", "context": {"z": "w"}, "examples": [{"x": 1.0}, {"x": 2.0}]}',
    ],
)
def test_regress_answers_values(client: httpx.Client, body: str) -> None:
    assert post(client, "half", body, "regress").text == '{\n    "results": [3.5, 4.0]\n}'


EXAMPLES = {
    "no examples": ({}, "When method is classify, key 'examples' is expected and was not found"),
    "no list": ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
    "an empty list": ({"examples": []}, "'examples' value is an empty array"),
    "no object": ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
    "null": ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    "nested": ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    "an object": ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    "mixed": ({"examples": [{"x": [1, 2.0]}]}, "Unexpected element type in feature: x expecting type: int64"),
    "too big": ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
    "an integer to a float feature": ({"examples": [{"x": 2}]}, ""),
    "unknown signature": ({"signature_name": "s", "examples": [{"x": 2.0}]}, "No signature was found with the name: s"),
}


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_examples_that_are_wrong_are_400(client: httpx.Client, case: str, verb: str) -> None:
    """Both verbs say `classify`."""
    fields, text = EXAMPLES[case]
    signature = "classify_x_to_y" if verb == "classify" else "regress_x_to_y"
    status, told = error(post(client, "half", {"signature_name": signature, **fields}, verb))
    assert (status, text in told) == (400, True), told


def test_an_unknown_model_is_looked_up_after_the_examples(client: httpx.Client) -> None:
    assert error(post(client, "nope", '{"examples": []}', "regress"))[0] == 400
    assert error(post(client, "nope", '{"examples": [{}]}', "regress"))[0] == 404
