"""Text through the gateway: here one that answers on a real socket with a model that says the alphabet."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from models import generate
from models.__main__ import main
from models.catalog import CATALOG

SPEC = CATALOG[generate.MODEL]
LABELS = SPEC.labels


def following(inputs: dict[str, Any]) -> dict[str, Any]:
    """After each character the next of the vocabulary; the state counts the characters that it has seen."""
    tokens = inputs["token"]["data"]
    rows = [[50.0 * (place == (token + 1) % len(LABELS)) for place in range(len(LABELS))] for token in tokens[0]]
    seen = inputs["hidden"]["data"][0][0] + len(tokens[0])
    state = [[float(seen)] * len(inputs["hidden"]["data"][0])]
    return {"logits": [rows], "new_hidden": state, "new_cell": state}


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        inputs = {one["name"]: one for one in request["inputs"]}
        type(self).seen.append((self.path, inputs))
        known = self.path.startswith(f"/v2/models/{generate.MODEL}@pytorch/")
        answer = (
            {"outputs": [as_output(name, value) for name, value in following(inputs).items()]}
            if known
            else {"error": "no variant of that name"}
        )
        content = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def as_output(name: str, value: Any) -> dict[str, Any]:
    """Flat, as the protocol allows and the gateway answers."""
    array = np.array(value)
    return {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    front = type("FreshFront", (Front,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), front) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", front.seen
        finally:
            server.shutdown()
            thread.join()


def test_each_character_is_sent_with_the_state_that_came_back(
    gateway: tuple[str, list[tuple[str, dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The prompt goes in one request, after the line break that begins a paragraph; then a character a request."""
    url, seen = gateway
    assert main(["generate", "--url", url, "--variant", "pytorch", "--prompt", "abc", "--length", "4"]) == 0
    assert capsys.readouterr().out == "pytorch:\nabcdefg\n\n"
    assert [len(inputs["token"]["data"][0]) for _, inputs in seen] == [4, 1, 1, 1, 1]
    assert [inputs["hidden"]["data"][0][0] for _, inputs in seen] == [0, 4, 5, 6, 7]
    for _, inputs in seen:
        for tensor in SPEC.inputs:
            assert inputs[tensor.name]["datatype"] == tensor.datatype
            assert inputs[tensor.name]["shape"] == list(np.shape(inputs[tensor.name]["data"]))


def test_a_refusal_is_told_in_the_gateways_words(
    gateway: tuple[str, list[tuple[str, dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--url", gateway[0], "--variant", "tensorflow"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "404" in said
    assert "no variant of that name" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no answer from the gateway at http://127.0.0.1:9 ("),
        (["--prompt", "na\u00efve"], "the model does not know the character '\u00ef'"),
        (["--prompt", ""], "give a prompt of one character at least"),
        (["--url", "//"], "give an address such as http://localhost:8000"),
        (["--url", "http://host:port"], "give an address such as http://localhost:8000"),
        (["--front", "v2-grpc", "--url", "http://host:1"], "over gRPC give an address such as localhost:8001"),
        (["--front", "v2-grpc", "--url", "127.0.0.1:9"], "no answer from the gateway at 127.0.0.1:9 ("),
        (["--front", "v2-grpc-stream", "--url", "127.0.0.1:9"], "no answer from the gateway at 127.0.0.1:9 ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_generated_is_one_line(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--url", "http://127.0.0.1:9", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("models: ")
    assert said.count("\n") == 1
    assert sentence in said


def test_the_same_seed_writes_the_same_and_a_cold_temperature_the_likeliest() -> None:
    def uncertain(inputs: dict[str, Any]) -> dict[str, Any]:
        logits = [[[1.0 * (place == 5) for place in range(len(LABELS))]] * len(inputs["token"][0])]
        return {"logits": logits, "new_hidden": inputs["hidden"], "new_cell": inputs["cell"]}

    one, same, other = (generate.write(uncertain, "a", 50, seed=seed, temperature=1.0) for seed in (1, 1, 2))
    assert one == same != other
    assert generate.write(uncertain, "a", 50, temperature=0.01) == "a" + 50 * LABELS[5]
