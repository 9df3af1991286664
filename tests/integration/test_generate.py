"""Text from `lstm_text_generator`, a character a step: the command over each front, from both frameworks."""

from __future__ import annotations

from contextlib import closing

import pytest

from models.__main__ import main
from models.catalog import CATALOG
from models.fronts import FRONTS, FrontError
from models.generate import MODEL, PROMPT, at_rest
from tests.stack import Stack

LENGTH = 60
EVERY = pytest.mark.parametrize("front", FRONTS)
BOTH = pytest.mark.parametrize("variant", ["tensorflow", "pytorch"])


def url(stack: Stack, front: str) -> str:
    return f"http://127.0.0.1:{stack.http_port}" if front == "v2-rest" else f"127.0.0.1:{stack.grpc_port}"


@pytest.fixture
def written(stack: Stack, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """Text by front and framework."""
    texts = {}
    for front in FRONTS:
        arguments = ["generate", "--front", front, "--url", url(stack, front), "--length", str(LENGTH)]
        assert main(arguments) == 0
        tensorflow, pytorch = capsys.readouterr().out.removeprefix("tensorflow:\n").split("\n\npytorch:\n")
        texts[front] = {"tensorflow": tensorflow, "pytorch": pytorch.removesuffix("\n\n")}
    return texts


def test_a_stream_writes_what_plain_calls_write(written: dict[str, dict[str, str]]) -> None:
    """To the character: the state that goes to and fro is the same to the bit, as JSON and as bytes."""
    assert written["v2-grpc-stream"] == written["v2-grpc"] == written["v2-rest"]


def test_both_frameworks_write_the_same_text(written: dict[str, dict[str, str]]) -> None:
    """Version 2 is the same function in both, and the same seed draws the same characters."""
    texts = written["v2-grpc-stream"]
    assert texts["tensorflow"] == texts["pytorch"]
    assert texts["pytorch"].startswith(PROMPT)
    assert len(texts["pytorch"]) == len(PROMPT) + LENGTH
    assert len(set(texts["pytorch"])) > 5


@EVERY
@BOTH
def test_a_refusal_is_told_in_the_gateways_words(stack: Stack, front: str, variant: str) -> None:
    spec = CATALOG[MODEL]
    with closing(FRONTS[front](url(stack, front), spec, variant)) as step:
        with pytest.raises(FrontError, match=r"input 'hidden': shape \[1, 3\]; the model takes \[-1, 128\]"):
            step({"token": [[1]], **at_rest(spec), "hidden": [[0.0] * 3]})
        if front == "v2-grpc-stream":
            assert set(step({"token": [[1]], **at_rest(spec)})) == {tensor.name for tensor in spec.outputs}
