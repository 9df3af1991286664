"""Strings as Base64 in v2's JSON, in each form that KServe's, MLServer's and other clients use, to both frameworks."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import Stack

MODEL = "text_classifier"
SAID = {"content_encoding": "base64"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_base64_is_the_same_request_as_its_text(stack: Stack, variant: str) -> None:
    ((name, array),) = examples(MODEL).items()
    plain = [item.decode() for item in array.ravel()]
    encoded = [b64encode(item).decode() for item in array.ravel()]
    entry = {"name": name, "shape": list(array.shape), "datatype": "BYTES"}

    def post(data: list[Any], parameters: Any = None, of_request: Any = None) -> Any:
        body = {"inputs": [{**entry, "data": data, "parameters": parameters}], "parameters": of_request}
        answer = stack.client.post(f"/v2/models/{MODEL}@{variant}/infer", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"]

    wanted = post(plain)
    assert post(encoded, SAID) == wanted
    assert post(encoded, {"content_type": "base64"}) == wanted
    assert post(encoded, None, SAID) == wanted
    assert post([{"b64": text} for text in encoded]) == wanted
    assert post(encoded) != wanted  # a text like any other, where nobody says what it is
