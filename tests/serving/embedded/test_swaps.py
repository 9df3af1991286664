"""Versions are swapped while callers of both transports ask: nobody notices but by the version in the answer.

Version n of `m` answers n, and of `slow` n after a loop of as many rounds as it is told.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, predict_pb2

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server

SWAPS = 20
#: Seconds of a core.
ROUNDS = 700_000


def slow(number: int) -> Callable[[], dict[str, savedmodels.Signature]]:
    def build() -> dict[str, savedmodels.Signature]:
        rounds = savedmodels.v1.placeholder(tf.int32, [], name="rounds")
        (done,) = tf.while_loop(lambda at: at < rounds, lambda at: [at + 1], [0], parallel_iterations=1)
        number_again = tf.cast(done - rounds + number, tf.float32, name="y")
        return {"serving_default": ({"rounds": rounds}, {"y": number_again}, savedmodels.PREDICT)}

    return build


class World:
    """`m` and `slow` in versions 1 to 21, of which the configuration serves what the test names."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        for number in range(1, SWAPS + 2):
            savedmodels.save(folder / "m" / str(number), savedmodels.half_plus(number))
            savedmodels.save(folder / "slow" / str(number), slow(number))
        savedmodels.save(folder / "polled" / "1", savedmodels.half_plus(1))
        config = folder / "models.config"
        config.write_text(self.configured(1))
        flags = [f"--model_config_file={config}", "--file_system_poll_wait_seconds=1"]
        self.server = Server(folder, flags, command=command).ready(90)

    def configured(self, *numbers: int) -> str:
        policy = " ".join(f"versions: {number}" for number in numbers)
        entries = "".join(
            f'config {{ name: "{name}" base_path: "{self.folder}/{name}" model_platform: "tensorflow" '
            f"model_version_policy {{ {inside} }} }}\n"
            for name, inside in (
                ("m", f"specific {{ {policy} }}"),
                ("slow", f"specific {{ versions: {numbers[-1]} }}"),
                ("polled", "latest { num_versions: 1 }"),
            )
        )
        return f"model_config_list {{\n{entries}}}\n"

    def serve(self, *numbers: int) -> None:
        """Returns when the new versions serve; the old ones go when nobody is on them."""
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(self.configured(*numbers), request.config)
        assert self.server.model.HandleReloadConfigRequest(request, 60).status.error_code == 0

    def states(self, name: str) -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        answer = self.server.model.GetModelStatus(request, 20)
        names = get_model_status_pb2.ModelVersionStatus.State
        return {entry.version: names.Name(entry.state) for entry in answer.model_version_status}

    def ask(self, name: str, **inputs: object) -> tuple[int, float]:
        """The version that the answer names, and the one that its content tells."""
        request = predict_pb2.PredictRequest(inputs={key: tf.make_tensor_proto(value) for key, value in inputs.items()})
        request.model_spec.name = name
        answer = self.server.prediction.Predict(request, 60)
        return answer.model_spec.version.value, answer.outputs["y"].float_val[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("swaps"), command)
    yield made
    made.server.close()


class Load:
    """Callers of both transports, from entry to exit. ``served`` are the versions that calls may be answered by."""

    def __init__(self, world: World, name: str) -> None:
        self.served = (1, 1)
        self.failures: list[str] = []
        self._world, self._name = world, name
        self._stop = threading.Event()
        callers = [self._grpc, self._grpc, self._rest, self._rest, *([self._pinned] if name == "m" else [])]
        self.seen: dict[str, list[float]] = {caller.__name__: [] for caller in callers}
        self._threads = [threading.Thread(target=self._repeat, args=(caller,)) for caller in callers]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Until every kind of caller has answers to calls that it began since."""
        before = {caller: len(seen) for caller, seen in self.seen.items()}
        until(
            lambda: all(len(self.seen[caller]) > count + 2 for caller, count in before.items()) or self.failures != []
        )

    def _repeat(self, caller: Callable[[httpx.Client], None]) -> None:
        address = f"http://127.0.0.1:{self._world.server.rest_port}"
        with httpx.Client(base_url=address, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    caller(client)
                except (grpc.RpcError, httpx.HTTPError) as error:
                    self.failures.append(repr(error))

    def _grpc(self, client: httpx.Client) -> None:
        named, told = self._world.ask(self._name, x=np.float32([0]))
        self._note("_grpc", told, named, named)

    def _rest(self, client: httpx.Client) -> None:
        """An answer over REST names no version: it must be one that served between request and answer."""
        oldest = self.served[0]
        told = self._predict(client, self._name)
        self._note("_rest", told, oldest, self.served[1])

    def _pinned(self, client: httpx.Client) -> None:
        """The version in the path; the newest that is known to serve stays for the next swap."""
        number = self.served[0]
        self._note("_pinned", self._predict(client, f"{self._name}/versions/{number}"), number, number)

    def _predict(self, client: httpx.Client, path: str) -> float:
        answer = client.post(f"/v1/models/{path}:predict", content=b'{"instances": [0.0]}')
        if answer.status_code != 200:
            self.failures.append(f"{path}: {answer.status_code} {answer.text}")
            return self.served[0]
        return float(json.loads(answer.content)["predictions"][0])

    def _note(self, caller: str, told: float, oldest: int, newest: int) -> None:
        self.seen[caller].append(told)
        if not oldest <= told <= newest:
            self.failures.append(f"{caller}: {told} where {oldest} to {newest} served")


def until(fact: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_twenty_swaps_under_load_fail_no_call(world: World) -> None:
    """Every answer is that of the version that it names. The version before stays one swap longer, for who names it."""
    with Load(world, "m") as load:
        load.wait()
        for number in range(2, SWAPS + 2):
            load.served = (number - 1, number)
            world.serve(number - 1, number)
            load.served = (number, number)
            load.wait()
    assert load.failures == []
    everyone = set(map(float, range(1, SWAPS + 2)))
    assert {caller: set(seen) for caller, seen in load.seen.items()} == dict.fromkeys(load.seen, everyone)
    assert world.states("m")[SWAPS + 1] == "AVAILABLE"
    until(lambda: set(world.states("m").values()) <= {"AVAILABLE", "END"})


def poll_swaps(world: World, first: int, last: int) -> None:
    with Load(world, "polled") as load:
        load.served = (first - 1, first - 1)
        load.wait()
        for number in range(first, last + 1):
            load.served = (number - 1, number)
            savedmodels.save(world.folder / "polled" / str(number), savedmodels.half_plus(number))
            until(lambda number=number: world.states("polled").get(number) == "AVAILABLE")
            until(lambda number=number: world.states("polled")[number - 1] == "END")
            load.served = (number, number)
        load.wait()
    assert load.failures == []
    assert {told for seen in load.seen.values() for told in seen} >= {first - 1.0, float(last)}


def test_versions_that_are_found_on_disk_swap_as_well(world: World) -> None:
    poll_swaps(world, 2, 4)


@pytest.mark.full
def test_twenty_versions_that_are_found_on_disk_swap_as_well(world: World) -> None:
    newest = max(world.states("polled"))
    poll_swaps(world, newest + 1, newest + SWAPS)


def test_a_call_in_flight_ends_on_the_version_that_it_began_with(world: World) -> None:
    """The old version unloads meanwhile, new calls go to the new one; it is gone only when the old call has ended."""
    # How long a swap takes depends on what else the machine does: the calls are made longer until they outlast it
    # (within the 30 s that REST calls have).
    assert any(outlasts_a_swap(world, ROUNDS * times) for times in (1, 2, 3))


def outlasts_a_swap(world: World, rounds: int) -> bool:
    """Whether a call was still in flight when the new version answered; all answers must be right anyway."""
    (old,) = (number for number, state in world.states("slow").items() if state == "AVAILABLE")
    new = old - 1 if old > 1 else old + 1
    rest = f"http://127.0.0.1:{world.server.rest_port}/v1/models/slow:predict"
    with ThreadPoolExecutor(2) as callers:
        by_grpc = callers.submit(world.ask, "slow", rounds=np.int32(rounds))
        by_rest = callers.submit(httpx.post, rest, content=json.dumps({"inputs": rounds}), timeout=120)
        time.sleep(0.5)  # both are on their way, and far from their end
        world.serve(new)
        until(lambda: world.states("slow")[old] in {"UNLOADING", "END"})
        assert world.ask("slow", rounds=np.int32(1)) == (new, new)
        state = world.states("slow")[old]
        in_flight = not (by_grpc.done() and by_rest.done())
        assert state == "UNLOADING" or not in_flight
        assert by_grpc.result() == (old, old)
        assert by_rest.result().json() == {"outputs": float(old)}
    until(lambda: world.states("slow")[old] == "END")
    return in_flight
