"""Start-up, its order and its failures, and the end of the process. The processes of one module start together."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server, config_text


class Started:
    """The servers of this module, each by what is special about it."""

    def __init__(self, folder: Path, command: str) -> None:
        self._folder, self._command = folder, command
        self.taken = socket.create_server(("127.0.0.1", 0))
        model = savedmodels.save(folder / "m" / "1", savedmodels.half_plus(2)).parent
        self.late = folder / "late"
        (folder / "broken" / "1").mkdir(parents=True)
        one, once = f"--model_base_path={model}", "--max_num_load_retries=0"
        self.servers = {
            "plain": self._start("plain", one, "--model_name=m"),
            "interrupted": self._start("interrupted", one, "--no_such_flag=1", "--model_name=m"),
            "port taken": self._start("taken", one, port=self.taken.getsockname()[1]),
            "bad config": self._configured("bad", "model_config_list { config { nonsense: 1 } }"),
            "no config": self._start("none"),
            "no such config": self._start("missing", f"--model_config_file={folder / 'nowhere'}"),
            "broken model": self._configured("broken", config_text({"b": folder / "broken", "m": model}), once),
            "early label": self._configured(
                "label", config_text({"m": model}, 'version_labels { key: "l" value: 1 }'), once
            ),
            "bad value": self._start("value", one, "--file_system_poll_wait_seconds=soon"),
            "no such library": self._start("library", one, "--custom_op_libraries=/no/such.so"),
            "late": self._start("late", f"--model_base_path={self.late}"),
        }

    def _configured(self, name: str, text: str, *flags: str) -> Server:
        path = self._folder / f"{name}.config"
        path.write_text(text)
        return self._start(name, f"--model_config_file={path}", *flags)

    def _start(self, name: str, *flags: str, port: int | None = None) -> Server:
        folder = self._folder / f"of-{name}"
        folder.mkdir()
        return Server(folder, flags, command=self._command, port=port)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[Started]:
    made = Started(tmp_path_factory.mktemp("startup"), command)
    yield made
    made.taken.close()
    for server in made.servers.values():
        server.close()


@pytest.mark.usefixtures("embedded_only")
@pytest.mark.parametrize(("name", "number"), [("plain", signal.SIGTERM), ("interrupted", signal.SIGINT)])
def test_a_signal_ends_it_with_0(started: Started, name: str, number: int) -> None:
    server = started.servers[name].ready()
    server.process.send_signal(number)
    assert server.ended(10) == 0
    assert "Traceback" not in server.stderr


def test_an_unknown_flag_prints_the_usage_and_the_server_starts(started: Started) -> None:
    server = started.servers["interrupted"]
    if server.process.poll() is None:
        server.ready()
    assert "unknown argument: --no_such_flag=1\nusage: " in server.stdout
    assert "Running gRPC ModelServer at " in server.stdout + server.stderr


@pytest.mark.parametrize(
    ("name", "stdout", "stderr"),
    [
        (
            "port taken",
            "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server",
            "",
        ),
        (
            "bad config",
            "Failed to start server. Error: INVALID_ARGUMENT: Invalid protobuf file: '",
            "Error parsing text-format tensorflow.serving.ModelServerConfig: ",
        ),
        (
            "no config",
            "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path and "
            "server_options.model_config_file are empty!",
            "",
        ),
        ("no such config", "Failed to start server. Error: NOT_FOUND: ", ""),
        (
            "broken model",
            "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
            "{{{name: b version: 1} due to error: NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied "
            "export directory",
            "",
        ),
        (
            "early label",
            "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to 1 of model m, "
            "which is not currently available for inference",
            "",
        ),
        ("bad value", "usage: ", "Couldn't interpret value soon for flag file_system_poll_wait_seconds."),
    ],
)
def test_what_keeps_it_from_starting_is_told_and_ends_with_255(
    started: Started, name: str, stdout: str, stderr: str
) -> None:
    server = started.servers[name]
    assert server.ended() == 255
    assert stdout in server.stdout
    assert stderr in server.stderr
    assert "Traceback" not in server.stderr


@pytest.mark.usefixtures("embedded_only")
def test_what_is_this_servers_own_is_told_too(started: Started) -> None:
    """What to do about a port that is taken; a library that is not there."""
    taken, library = started.servers["port taken"], started.servers["no such library"]
    assert (taken.ended(), library.ended()) == (255, 255)
    assert "cannot listen on 127.0.0.1:" in taken.stderr
    assert "Failed to start server. Error: NOT_FOUND: --custom_op_libraries: " in library.stdout


def test_ports_open_only_when_every_model_serves(started: Started) -> None:
    """It waits for a base path that is not there yet."""
    server = started.servers["late"]
    assert server.process.poll() is None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
    savedmodels.save(started.late / "1", savedmodels.half_plus(2))
    server.ready()
    limit = time.monotonic() + 20
    while "Running gRPC" not in (told := server.stdout + server.stderr) and time.monotonic() < limit:
        time.sleep(0.05)  # it is said after the ports are open
    assert told.index("Successfully loaded") < told.index("Running gRPC")
