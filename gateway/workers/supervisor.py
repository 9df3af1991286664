"""Keeps as many workers as were asked for: starts them, replaces the dead, restarts them one by one, ends them all.

Each worker is a process that listens on the same ports (SO_REUSEPORT: the kernel deals connections out among them). The
supervisor keeps every HTTP socket open, so that a connection waits for the next worker where the last one has died.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO

from gateway.config import ConfigError, Settings
from gateway.workers import listen
from gateway.workers.board import Board, State
from gateway.workers.order import Order

log = logging.getLogger("duet.workers")

#: Deaths within a minute after which the next worker would die too: better to end loudly.
_MAX_DEATHS = 5
_MINUTE_SECONDS = 60.0
_POLL_SECONDS = 0.05
#: How long a worker may take to start. Its event loop does not run before, so that it can give no sign of life.
_START_SECONDS = 120.0
#: How long a new worker may take to be as ready as the one that it replaces.
_READY_SECONDS = 30.0


@dataclass(eq=False, slots=True)
class _Worker:
    place: int
    process: subprocess.Popen[bytes]
    #: Closed only after its end: until then it tells the worker that the supervisor lives.
    order_pipe: IO[bytes]
    #: Its last sign of life, and for how long this has been the last. Only time counts in which we looked: after a
    #: pause of the whole machine nobody is late.
    beat: int = 0
    silent_seconds: float = 0.0


@dataclass(eq=False, slots=True)
class _Slot:
    """A listening socket, and the worker that is to serve it. ``deaths`` are the times of the last ones."""

    http: socket.socket
    worker: _Worker | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_DEATHS))


class Supervisor:
    """``reload`` gives the settings anew before the workers are restarted, ``command`` is a worker's. `run` once."""

    def __init__(
        self,
        settings: Settings,
        *,
        reload: Callable[[], Settings],
        command: Sequence[str] = (sys.executable, "-m", "gateway", "--worker"),
    ) -> None:
        self._settings = settings
        self._count = settings.workers
        self._reload = reload
        self._command = command
        self._workers: list[_Worker] = []
        self._stopping = False
        self._restart_asked = False
        self._exit_code = 0

    def run(self) -> int:
        """Returns the exit code: 0 after SIGTERM or SIGINT, 1 where workers do not stay alive.

        Raises OSError where it cannot listen.
        """
        http, admin, grpc = self._settings.http, self._settings.admin, self._settings.grpc
        with tempfile.TemporaryDirectory(prefix="duet-") as folder:
            self._folder = Path(folder)
            self._board = Board(self._folder, workers=self._count)
            self._slots = [_Slot(sock) for sock in listen.shared(http.host, http.port, count=self._count)]
            self._admin = listen.alone(admin.host, admin.port)
            self._grpc = listen.reserve(grpc.host, grpc.port)
            asyncio.run(self._keep())
        return self._exit_code

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        address = self._slots[0].http.getsockname()
        log.info("%s workers on http://%s", self._count, listen.authority(address[0], address[1]))
        restarting: asyncio.Task[None] | None = None
        while not self._stopping:
            self._bury()
            self._end_silent()
            for slot in self._slots:
                if slot.worker is None and not self._stopping:
                    slot.worker = self._start(slot)
            if self._restart_asked and (restarting is None or restarting.done()):
                self._restart_asked = False
                restarting = asyncio.create_task(self._restart())
            await asyncio.sleep(_POLL_SECONDS)
        if restarting is not None:
            restarting.cancel()
        while self._workers:
            self._bury()
            self._end_silent()
            await asyncio.sleep(_POLL_SECONDS)

    def _on_stop(self, name: str) -> None:
        if self._stopping:
            log.info("%s again: stopping at once", name)
            for worker in self._workers:
                worker.process.terminate()
        else:
            log.info("%s: draining", name)
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._board.drain()
        for worker in self._workers:
            if self._board.state(worker.place) is not State.LEAVING:  # told twice, it would not wait for anybody
                worker.process.terminate()

    def _on_hangup(self) -> None:
        log.info("SIGHUP: restarting the workers, one after the other")
        self._restart_asked = True

    def _start(self, slot: _Slot) -> _Worker:
        place = self._board.free_place()
        order = Order(
            settings=self._settings,
            http=slot.http.fileno(),
            admin=self._admin.fileno(),
            grpc_port=self._grpc.getsockname()[1],
            place=place,
            workers=self._count,
            folder=self._folder,
        )
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            self._command,
            stdin=subprocess.PIPE,
            pass_fds=(order.http, order.admin),
            start_new_session=True,  # Ctrl-C is for the supervisor, which tells its workers
        )
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        self._board.write(place, State.STARTING, process.pid)
        worker = _Worker(place, process, process.stdin)
        self._workers.append(worker)
        with suppress(BrokenPipeError):  # it is dead already: `_bury` will see
            order.write(process.stdin)
        return worker

    def _bury(self) -> None:
        """Clears the places of workers that have ended, and notes who died without having been told to."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            with suppress(BrokenPipeError):
                worker.order_pipe.close()
            self._board.clear(worker.place)
            for slot in self._slots:
                if slot.worker is worker:
                    slot.worker = None
                    if not self._stopping:
                        self._note_death(slot, worker)

    def _end_silent(self) -> None:
        """Kills workers whose event loop stands still; `_bury` sees to their successors. They hear no other signal."""
        for worker in self._workers:
            beat = self._board.beat(worker.place)
            if beat != worker.beat:
                worker.beat, worker.silent_seconds = beat, 0.0
                continue
            worker.silent_seconds += _POLL_SECONDS
            if worker.silent_seconds > self._patience(worker):
                log.error(
                    "worker %s (process %s) has given no sign of life for %.0f s: ending it",
                    worker.place,
                    worker.process.pid,
                    worker.silent_seconds,
                )
                worker.silent_seconds = 0.0
                worker.process.kill()

    def _patience(self, worker: _Worker) -> float:
        """Its own watchdog reports the stack at half of that time."""
        starting = self._board.state(worker.place) is State.STARTING
        return _START_SECONDS if starting else 2 * self._settings.max_lag_seconds

    def _note_death(self, slot: _Slot, worker: _Worker) -> None:
        log.warning("worker %s (process %s) died: %s", worker.place, worker.process.pid, _cause(worker.process))
        slot.deaths.append(monotonic())
        if len(slot.deaths) == _MAX_DEATHS and slot.deaths[-1] - slot.deaths[0] < _MINUTE_SECONDS:
            log.error("a worker died %s times within a minute: giving up", _MAX_DEATHS)
            self._exit_code = 1
            self._stop()

    async def _restart(self) -> None:
        """Each slot in turn gets a new worker; the old one drains once the new one is as ready as it was."""
        before = self._settings
        try:
            self._settings = self._same_addresses(self._reload())
        except ConfigError as error:
            log.error("not restarted, the settings are wrong: %s", error)
            return
        for slot in self._slots:
            old = slot.worker
            if old is None:
                continue  # dead: its successor starts with the new settings
            was_ready = self._board.state(old.place) is State.READY
            new = self._start(slot)
            if not await self._reaches(new, State.READY if was_ready else State.SERVING):
                log.error("worker %s did not become ready: the restart ends here, with the old settings", new.place)
                self._settings = before
                new.process.terminate()
                return
            slot.worker = new
            old.process.terminate()
            while old in self._workers:  # noqa: ASYNC110 - processes are polled here, by `_keep`
                await asyncio.sleep(_POLL_SECONDS)
        log.info("all workers are new")

    async def _reaches(self, worker: _Worker, state: State) -> bool:
        end = monotonic() + _READY_SECONDS
        while worker in self._workers and monotonic() < end:
            if self._board.state(worker.place) >= state:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    def _same_addresses(self, settings: Settings) -> Settings:
        """The new settings on the old sockets: addresses change with a new start only."""
        moved = [
            name
            for name in ("http", "grpc", "admin")
            if _address(getattr(settings, name)) != _address(getattr(self._settings, name))
        ]
        if moved:
            log.warning("the addresses of %s stay until the next start", ", ".join(moved))
        return settings


def _address(settings: object) -> tuple[object, object]:
    return getattr(settings, "host", None), getattr(settings, "port", None)


def _cause(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
