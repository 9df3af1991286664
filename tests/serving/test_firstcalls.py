"""The first calls of `serving up`: what they send, and that one which fails is a row and no end."""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from gateway.codecs import v2
from gateway.types import InferResponse
from models.served import Served
from models.spec import TensorSpec
from serving import up
from serving.display import answers_table
from serving.failures import Failure
from serving.firstcalls import Answer, CallFailed, as_tensor, call, tensor_call
from serving.options import parse
from serving.plan import Plan
from serving.readiness import Goal
from serving.stops import Stops
from serving.supervisor import Supervisor

Reply = Callable[[bytes, str], tuple[int, bytes, dict[str, str]]]


@pytest.fixture
def gateway() -> Iterator[Callable[[Reply], int]]:
    servers: list[HTTPServer] = []

    def start(reply: Reply) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, content, headers = reply(body, self.headers.get(v2.HEADER_LENGTH, ""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def echo(body: bytes, length: str) -> tuple[int, bytes, dict[str, str]]:
    """The first input as the output, in the binary form that was asked for."""
    decoded = v2.decode_request(body, int(length))
    assert decoded.form.all_binary
    response = InferResponse("m", "tensorflow", 1, decoded.inputs)
    pieces, header_length = v2.encode_response(response, form=decoded.form)
    return 200, b"".join(pieces), {v2.HEADER_LENGTH: str(header_length), "x-duet-version": "1"}


@pytest.mark.parametrize(
    ("datatype", "values", "shown"),
    [
        ("FP32", 5.0, [5.0]),  # a rank of 0
        ("INT64", [[1, 2], [3, 4]], [1, 2, 3, 4]),
        ("BOOL", [True, False], [True, False]),
        ("FP16", [0.5, 65504.0], [0.5, 65504.0]),
        ("BF16", [[1.0, -2.5]], [1.0, -2.5]),
        ("FP64", [math.pi], [math.pi]),
        ("BYTES", "text", ["text"]),
        ("BYTES", [["a"], ["ü"]], ["a", "ü"]),
        ("BYTES", [{"b64": "/9j/"}], ["(3 bytes)"]),
    ],
)
def test_every_datatype_and_rank_can_be_an_example(
    gateway: Callable[[Reply], int], datatype: str, values: Any, shown: list[Any]
) -> None:
    """The kind: an example that JSON cannot say, or that has no first dimension, is asked like any other."""
    request = tensor_call("m", [TensorSpec("x", datatype, ())], {"x": values})
    assert call("127.0.0.1", gateway(echo), "m", "tensorflow", request).output == shown


def test_bf16_is_rounded_to_even() -> None:
    """1 + 2**-8 lies between two numbers of BF16 and goes to the even one, 1 + 3 * 2**-8 up."""
    bits = as_tensor(TensorSpec("x", "BF16", (2,)), [1 + 2**-8, 1 + 3 * 2**-8]).data
    assert bits.tolist() == [0x3F80, 0x3F82]


@pytest.mark.parametrize(
    "reply",
    [
        lambda body, length: (400, b'{"error": "no such shape"}', {}),
        lambda body, length: (200, b"<html>", {}),
        lambda body, length: (200, b'{"outputs": 3}', {}),
        lambda body, length: (200, b'{"outputs": []}', {v2.HEADER_LENGTH: "999"}),
        lambda body, length: (503, b"", {"Content-Length": "10"}),  # ends before it is whole
    ],
    ids=["refused", "no JSON", "no outputs", "a wrong length", "broken off"],
)
def test_what_is_no_answer_is_a_failed_call(gateway: Callable[[Reply], int], reply: Reply) -> None:
    """The kind: whatever comes back in place of an answer ends that call and nothing else."""

    def closing(body: bytes, length: str) -> tuple[int, bytes, dict[str, str]]:
        status, content, headers = reply(body, length)
        return status, content, {"Connection": "close", **headers}

    request = tensor_call("m", [TensorSpec("x", "FP32", (1,))], {"x": [1.0]})
    port = gateway(closing)
    with pytest.raises(CallFailed):
        call("127.0.0.1", port, "m", "tensorflow", request)


@pytest.mark.parametrize("values", [{"x": "text"}, {"x": [[1.0], [2.0, 3.0]]}, {"x": [{"b64": "aGk="}]}, {"x": None}])
def test_an_example_that_is_none_is_a_failed_call(values: dict[str, Any]) -> None:
    with pytest.raises(CallFailed, match="the example does not fit"):
        tensor_call("m", [TensorSpec("x", "INT32", (-1, 2))], values)


def test_an_unreachable_gateway_is_a_failed_call() -> None:
    request = tensor_call("m", [TensorSpec("x", "FP32", (1,))], {"x": [1.0]})
    with pytest.raises(CallFailed):
        call("127.0.0.1", 1, "m", "tensorflow", request)


def test_a_failure_is_a_row_with_its_reason() -> None:
    console = Console(file=io.StringIO(), width=120)
    failed = Answer("mine", "pytorch", "-", [], 0.0, "400 it takes [1, 2] and not more")
    console.print(answers_table([(failed, "", "-")]))
    assert "failed: 400 it takes [1, 2] and not more" in cast(io.StringIO, console.file).getvalue()


def test_a_shell_gets_the_request_only_where_json_can_say_it() -> None:
    said = tensor_call("m", [TensorSpec("x", "BYTES", (-1,))], {"x": ["it's"]})
    assert said.curl is not None
    inside = said.curl.removeprefix("-d '").removesuffix("'").replace("'\\''", "'")
    assert json.loads(inside)["inputs"][0]["data"] == ["it's"]
    assert tensor_call("m", [TensorSpec("x", "FP16", (-1,))], {"x": [1.0]}).curl is None
    assert tensor_call("m", [TensorSpec("x", "BYTES", (-1,))], {"x": [{"b64": "/9j/"}]}).curl is None


def served(name: str) -> Served:
    spec = TensorSpec("x", "FP32", (-1,))
    return Served(name, "", (spec,), (spec,), {"pytorch": (1,)}, {"x": [1.0]})


class _Alive:
    """Of the supervisor only what waiting asks."""

    children: tuple[()] = ()

    def check_all_alive(self) -> None:
        pass


def waited(tmp_path: Path, *, reached: bool, model: str) -> frozenset[str]:
    options = parse(["up", "--timeout", "0.2", "--run-dir", str(tmp_path)])
    goals = {"torchserve": [Goal("port 1", lambda: reached), Goal(model, lambda: False)]}
    plan = Plan(stages=[], goals=goals, client_host="127.0.0.1", http_port=1)
    console = Console(file=io.StringIO())
    return up._wait_until_ready(options, [served("mine")], plan, cast(Supervisor, _Alive()), console, Stops())


def test_a_model_of_the_users_that_never_gets_ready_stops_none_of_the_others(tmp_path: Path) -> None:
    """Its row says so. A server whose port never opens, or a documented model, still ends the start."""
    late = waited(tmp_path, reached=True, model="mine")
    assert late == {"mine"}
    plan = Plan(stages=[], goals={}, client_host="127.0.0.1", http_port=1)
    request = tensor_call("mine", served("mine").inputs, {"x": [1.0]})
    answer = up._answered(plan, "mine", "pytorch", request, late)
    assert "not ready in time" in answer.failure


@pytest.mark.parametrize(("reached", "model"), [(False, "mine"), (True, "linear_regression")])
def test_a_server_or_a_documented_model_that_is_not_ready_ends_the_start(
    tmp_path: Path, reached: bool, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "_late", lambda *_: Failure("late"))
    with pytest.raises(Failure, match="late"):
        waited(tmp_path, reached=reached, model=model)
