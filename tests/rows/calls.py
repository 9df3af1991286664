"""32 callers of one model at a time, each answer held against what the framework itself says to that request alone."""

from __future__ import annotations

import http.client
import itertools
import random
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gateway.codecs import v2
from gateway.types import InferRequest, Tensor
from models.importing.independence.trial import apart, tolerance
from models.spec import Array
from tests.rows.torch_blocks import WIDTH
from tests.stack import Stack

CALLERS = 32
EQUAL_FIRST = 64
"""So many first calls of each model send equal rows: nothing can be learnt from those."""
DISTINCT = 96

Alone = Callable[[Array], Array]


@dataclass(frozen=True)
class Served:
    """One model of the run. `alone` is the framework itself, without any server."""

    name: str
    said: str
    variant: str
    independent: bool
    alone: Alone


@dataclass
class Result:
    """`runs` of the model; each request beyond those was joined to another's."""

    requests: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def joined(self) -> int:
        """At least so many shared a call: of a call for k requests, all but one are counted."""
        return self.requests - self.runs


@dataclass(frozen=True)
class Request:
    body: bytes
    length: int
    rows: Array
    expected: Array


def drawn(model: Served, chance: np.random.Generator, *, count: int) -> list[Request]:
    """Of one to three rows, of very different scale; one in eight holds equal rows."""
    requests = []
    for place in range(count):
        shape = (int(chance.choice([1, 1, 1, 1, 2, 3])), WIDTH)
        rows = chance.standard_normal(shape) * 10.0 ** chance.integers(-3, 3)
        if place % 8 == 0:
            rows = np.full(shape, float(place % 5))
        requests.append(request(model, rows.astype(np.float32)))
    return requests


def request(model: Served, rows: Array) -> Request:
    pieces, length = v2.encode_request(InferRequest(model.name, (Tensor("x", "FP32", rows),)))
    return Request(b"".join(pieces), length, rows, model.alone(rows))


def ask(stack: Stack, model: Served, *, count: int, seed: int) -> Result:
    """`count` requests by all callers together."""
    chance = np.random.default_rng(seed)
    equal = request(model, np.ones((1, WIDTH), np.float32))
    requests = drawn(model, chance, count=DISTINCT)
    numbers = itertools.count()
    before = runs(stack, model)
    result = Result()
    lock = threading.Lock()

    def caller(own: int) -> None:
        chance_ = random.Random(seed * 1000 + own)
        connection = http.client.HTTPConnection("127.0.0.1", stack.http_port, timeout=60)
        try:
            while (number := next(numbers)) < count:
                one = equal if number < EQUAL_FIRST else chance_.choice(requests)
                said = fault(connection, model, one)
                with lock:
                    result.requests += 1
                    if said:
                        (result.wrong if said.startswith("wrong") else result.failed).append(said)
        finally:
            connection.close()

    with ThreadPoolExecutor(CALLERS) as pool:
        for future in [pool.submit(caller, own) for own in range(CALLERS)]:
            future.result()
    result.runs = runs(stack, model) - before
    return result


def fault(connection: http.client.HTTPConnection, model: Served, one: Request) -> str:
    """What is wrong with the answer; empty where nothing is."""
    headers = {"Content-Type": "application/octet-stream", v2.HEADER_LENGTH: str(one.length)}
    connection.request("POST", f"/v2/models/{model.name}@{model.variant}/infer", one.body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        return f"failed with {response.status}: {content[:200]!r}"
    length = response.headers.get(v2.HEADER_LENGTH)
    (output,) = v2.decode_response(content, int(length) if length else None)
    if output.data.shape != one.expected.shape:
        return f"wrong: shape {output.data.shape}, not {one.expected.shape}"
    for place, (given, expected) in enumerate(zip(output.data, one.expected, strict=True)):
        if apart(expected, given, tolerance(expected, "FP32")) > 1:
            return f"wrong: row {place} of {one.rows.tolist()} is {given.tolist()}, not {expected.tolist()}"
    return ""


def runs(stack: Stack, model: Served) -> int:
    """How often the gateway has called the model's server for callers of a model whose requests it may join."""
    text = stack.admin.get("/metrics").text
    labels = rf'model="{model.name}",variant="{model.variant}"'
    return sum(int(float(value)) for value in re.findall(rf"duet_batch_rows_count{{{labels}[^}}]*}} (\S+)", text))


def differences(stack: Stack) -> int:
    """Batches that the gateway has asked again, and found to be answered otherwise."""
    found = re.findall(r"duet_batching_differences_total{[^}]*} (\S+)", stack.admin.get("/metrics").text)
    return sum(int(float(value)) for value in found)


def table(results: Sequence[tuple[Served, str, Result]]) -> str:
    lines = [f"{'model':14}{'drawn':12}{'concluded':13}{'requests':>9}{'joined':>8}{'wrong':>7}{'failed':>8}  blocks"]
    for model, rows, result in results:
        drawn_as = "independent" if model.independent else "dependent"
        figures = f"{result.requests:9}{result.joined:8}{len(result.wrong):7}{len(result.failed):8}"
        lines.append(f"{model.name:14}{drawn_as:12}{rows:13}{figures}  {model.said}")
    return "\n".join(lines)
