"""`python -m serving up` as a process: the real TorchServe and gateway, a TensorFlow server that doubles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from torch import Tensor, nn

from models.artifacts import HANDLER, Artifact, Store
from models.export import as_json, write_archive
from models.served import record_path
from serving.options import PORTS
from serving.ports import Listener as Port
from serving.ports import check_free
from tests.serving.programs import alive, wait_until
from tests.serving.tensors import spec, write_model

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60
NUMBERS = {option: 22040 + index for index, (option, *_) in enumerate(PORTS)}
DOUBLING_SERVER = f"""#!{sys.executable}
import signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
from tests.fakes.tfserving import FakeTFServing
port = next(int(flag.split("=")[1]) for flag in sys.argv if flag.startswith("--port="))
server = FakeTFServing({{"linear_regression": [1, 2]}}, port=port)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
"""
CRASHING_SERVER = "#!/bin/sh\necho 'cannot load linear_regression'\nexit 3\n"


@dataclass
class Up:
    """A started `serving up` and the lines that it has printed so far."""

    process: subprocess.Popen[str]
    run_dir: Path
    lines: list[str] = field(default_factory=list)
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(line.rstrip() for line in lines)

    def ready(self) -> bool:
        assert self.process.poll() is None, "\n".join(self.lines)
        return "Ctrl-C stops everything." in self.lines

    def pids(self) -> dict[str, int]:
        record = json.loads((self.run_dir / "run.json").read_text())
        return {child["name"]: child["pid"] for child in record["children"]}

    def wait(self) -> int:
        code = self.process.wait(READY_SECONDS)
        self.reader.join()
        return code


class Starter:
    """Starts `serving up` on this module's ports, everything under `folder`."""

    def __init__(self, folder: Path, artifacts: Path, server: Path) -> None:
        self.folder = folder
        self.options = {"--artifacts": str(artifacts), "--tf-serving-binary": str(server), "--run-dir": str(folder)}
        self.started: list[Up] = []

    def __call__(self, *, train: bool = False, **more: str) -> Up:
        options = {"--models": "linear_regression", **self.options, **NUMBERS, **more}
        command = [sys.executable, "-m", "serving", "up", *([] if train else ["--no-train"])]
        command += [f"{name}={value}" for name, value in options.items()]
        # The environment of a terminal would make a live display of it.
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "120"}
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        up = Up(process, self.folder)
        self.started.append(up)
        return up


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def ports_are_free() -> None:
    check_free([Port(server=name, host="127.0.0.1", port=port, option=name) for name, port in NUMBERS.items()])


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    command = [sys.executable, "-m", "models", "train", "linear_regression", "--out", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    put_mine(Store(folder), tmp_path_factory.mktemp("mine"))
    return folder


def put_mine(store: Store, folder: Path) -> None:
    """A model that was imported by an earlier Duet, with the handler of that day."""
    tensor = spec("x", "FP32", -1, 2)
    write_model(folder, Subtracting(), [tensor], [tensor], rows=None)
    signature = json.loads((folder / "signature.json").read_text()) | {"name": "mine", "imported": {}}
    members = {"model.pt": (folder / "model.pt").read_bytes(), "handler.py": HANDLER.read_bytes() + b"\n# earlier\n"}
    artifact = Artifact("mine", 1, "pytorch")
    write_archive(store.path(artifact), artifact, {**members, "signature.json": as_json(signature)})
    record = record_path(store, artifact)
    record.parent.mkdir()
    record.write_text('{"example": {"x": [[1.0, 2.0]]}}')


class Subtracting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 1


@pytest.fixture
def start(tmp_path: Path, artifacts: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path / "run", artifacts, program(tmp_path / "doubling", DOUBLING_SERVER))
    yield starter
    for up in starter.started:
        up.process.kill()
        up.wait()


def test_from_nothing_to_predictions_and_back(start: Starter) -> None:
    """The story: ready, predictions of both frameworks, curl lines that work, a restart, nothing left after Ctrl-C."""
    up = start()
    wait_until(up.ready, READY_SECONDS)
    rows = [line for line in up.lines if "linear_regression │" in line]
    assert [[cell.strip() for cell in row.split("│")][2:6] for row in rows] == [
        ["tensorflow", "2", "10", "4"],  # it doubles
        ["pytorch", "2", "4", "4"],
    ]
    if shutil.which("curl"):
        answers = [subprocess.check_output(line, shell=True, text=True) for line in curl_lines(up)]  # noqa: S602
        assert '"inputs"' in answers[0]
        assert json.loads(answers[1])["outputs"][0]["data"][0] == pytest.approx(4, abs=0.01)
        assert "duet" in answers[2]
    pids = up.pids()
    os.kill(pids["gateway"], signal.SIGKILL)
    wait_until(lambda: up.pids()["gateway"] != pids["gateway"])
    assert up.lines[-1] == "gateway was ended by SIGKILL; starting it again in 1 s"
    pids = up.pids()
    up.process.send_signal(signal.SIGINT)
    assert up.wait() == 0
    assert not any(alive(pid) for pid in pids.values())
    ports_are_free()
    assert not (up.run_dir / "run.json").exists()


def curl_lines(up: Up) -> list[str]:
    return [line for line in up.lines if line.strip().startswith("curl")]


def test_killed_it_leaves_nothing_that_the_next_start_could_stumble_over(start: Starter) -> None:
    """SIGKILL while starting: the servers die with it, the ports come free, and the next start becomes ready.

    That one is of a single imported model. It trains nothing, starts no TensorFlow server, gives the archive today's
    handler, and nothing else that lies in the folder can be reached.
    """
    killed = start()
    wait_until(lambda: (killed.run_dir / "run.json").exists() and len(killed.pids()) == 3, READY_SECONDS)
    pids = killed.pids()
    killed.process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids.values()))
    up = start(train=True, **{"--models": "mine"})
    wait_until(up.ready, READY_SECONDS)
    assert sorted(up.pids()) == ["gateway", "torchserve"]
    assert "Packed again, with today's handler and facts: mine 1 (pytorch)" in up.lines
    assert not [line for line in up.lines if line.startswith("Training")]
    gateway = f"http://127.0.0.1:{NUMBERS['--http-port']}/v2"
    listed = httpx.post(f"{gateway}/repository/index", json={}).json()
    assert [(entry["name"], entry["state"]) for entry in listed] == [("mine", "READY")]
    assert httpx.get(f"{gateway}/models/linear_regression").status_code == 404
    up.process.send_signal(signal.SIGTERM)
    assert up.wait() == 0


def test_a_taken_port_is_one_line_and_nothing_starts(start: Starter) -> None:
    """The line says which port, whose it was to be, who has it and which option changes it."""
    with socket.create_server(("127.0.0.1", NUMBERS["--tf-port"])):
        up = start()
        assert up.wait() == 1
    assert up.lines == [
        f"serving up: port {NUMBERS['--tf-port']} (TensorFlow server, gRPC) is taken by "
        f"{up.lines[0].split(' by ')[1].split(' ')[0]} (pid {os.getpid()}); choose another with --tf-port PORT"
    ]
    assert list(up.run_dir.iterdir()) == []


def test_a_server_that_crashes_while_starting_ends_it_with_its_own_words(start: Starter, tmp_path: Path) -> None:
    """Exit code 1, the log's last lines and its path, one line, and the other servers are stopped."""
    up = start(**{"--tf-serving-binary": str(program(tmp_path / "crashing", CRASHING_SERVER))})
    assert up.wait() == 1
    assert "  | cannot load linear_regression" in up.lines
    assert f"  more in {up.run_dir / 'logs' / 'tensorflow.log'}" in up.lines
    assert up.lines[-1] == "serving up: tensorflow ended with exit code 3 while starting"
    ports_are_free()


def test_what_is_not_ready_in_time_is_named(start: Starter) -> None:
    """A second is enough for no one: the line says who waits for what."""
    up = start(**{"--timeout": "1"})
    assert up.wait() == 1
    assert "not ready after 1 s: still waiting at" in up.lines[-1]
    assert "torchserve for " in up.lines[-1]
    ports_are_free()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--artifacts": "/nowhere"}, "linear_regression 1 (tensorflow)"),
        ({"--models": "resnet"}, "--models: no model named resnet"),
        ({"--tf-serving-binary": "/nowhere"}, "--tf-serving-binary /nowhere"),
    ],
    ids=["missing artifacts", "unknown model", "no such binary"],
)
def test_what_cannot_run_is_one_line(start: Starter, options: dict[str, str], words: str) -> None:
    """Told before anything is started."""
    up = start(**options)
    assert up.wait() == 1
    assert len(up.lines) == 1
    assert words in up.lines[0]
