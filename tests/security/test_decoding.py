"""The process that decodes large bodies: what one body does to it, and what its caller's retries may do then.

The kind: a body, of whichever dialect, during which the process ends. Its caller is told so in the dialect's shape,
everybody else gets answers, and a retry reaches no process for a minute.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.gateway.conftest import wait_for
from tests.security.door import MODEL, Door, open_door

VALUES = [1.5] * 60_000


def v2(value: float) -> bytes:
    data = [value, *VALUES]
    return json.dumps({"inputs": [{"name": "x", "shape": [len(data), 1], "datatype": "FP32", "data": data}]}).encode()


DIALECTS: dict[str, tuple[str, Callable[[float], bytes], Callable[[Any], str]]] = {
    "v2": (f"/v2/models/{MODEL}/infer", v2, lambda answer: answer["error"]),
    "TensorFlow Serving, rows": (
        f"/v1/models/{MODEL}:predict",
        lambda value: json.dumps({"instances": [[value], *([each] for each in VALUES)]}).encode(),
        lambda answer: answer["error"],
    ),
    "TensorFlow Serving, columns": (
        f"/v1/models/{MODEL}:predict",
        lambda value: json.dumps({"inputs": [[value], *([each] for each in VALUES)]}).encode(),
        lambda answer: answer["error"],
    ),
    "TorchServe": (
        f"/predictions/{MODEL}",
        lambda value: json.dumps([[value], *([each] for each in VALUES)]).encode(),
        lambda answer: answer["message"],
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("decoding")) as opened:
        yield opened


def post(door: Door, path: str, body: bytes) -> httpx.Response:
    with httpx.Client(base_url=f"http://127.0.0.1:{door.port}", timeout=20) as client:
        return client.post(path, content=body, headers={"content-type": "application/json"})


def decoding(door: Door) -> list[psutil.Process]:
    children = psutil.Process(door.gateway.process.pid).children(recursive=True)
    return [child for child in children if "gateway.rest.aside_child" in " ".join(child.cmdline())]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_that_ends_the_process_is_answered_and_not_tried_again(world: Door, dialect: str) -> None:
    path, body, message = DIALECTS[dialect]
    assert post(world, path, body(0.5)).status_code == 200
    (child,) = decoding(world)
    child.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, world, path, body(2.5))
        time.sleep(0.3)  # the question is on its way into the process
        child.kill()
        answer = asked.result()
    assert (answer.status_code, "process" in message(answer.json())) == (500, True)
    wait_for(lambda: not decoding(world), "the end of the process")
    again = post(world, path, body(2.5))
    assert (again.status_code, message(again.json())) == (500, message(answer.json()))
    assert not decoding(world), "a retry started a process"
    assert post(world, path, body(3.5)).status_code == 200
