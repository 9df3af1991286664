"""Measures the known server with the very generator that measures the real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.failures import LoadFailed
from loadtest.generator.job import Job, write_bodies
from loadtest.recorder import Block

BODY = b"x" * 512
SEED = 20_250_101


@dataclass(frozen=True, slots=True)
class Instrument:
    """The known server's ports, and a folder for what is recorded."""

    http_port: int
    grpc_port: int
    folder: Path

    def job(self, path: str, *, seconds: float, rate: float = 0.0, callers: int = 0, pair: int = 0) -> Job:
        """A block against the known server over HTTP; over gRPC where the path is a method's."""
        is_grpc = path.startswith("/grpc.")
        return Job(
            transport="grpc" if is_grpc else "http",
            host="127.0.0.1",
            port=self.grpc_port if is_grpc else self.http_port,
            target=path,
            headers={},
            bodies=str(self.folder / "body.npz"),
            out=str(self.folder / "block.npy"),
            seed=SEED,
            cell="calibration",
            pair=pair,
            seconds=seconds,
            rate=rate,
            callers=callers,
            sampled=0.0,
        )

    def measure(self, jobs: Sequence[Job]) -> list[Block]:
        """The jobs one after the other, in one generator. Raises LoadFailed."""
        files = []
        for place, job in enumerate(jobs):
            out = self.folder / f"{place}.npy"
            file = self.folder / f"{place}.json"
            Job(**{name: getattr(job, name) for name in job.__slots__} | {"out": str(out)}).write(file)
            files.append((file, out))
        command = [sys.executable, "-m", "loadtest.generator", *(str(file) for file, _ in files)]
        limit = sum(job.seconds + job.timeout_seconds for job in jobs) + 60
        ended = subprocess.run(  # noqa: S603 - our own command
            command, input="\n" * len(jobs), capture_output=True, text=True, check=False, timeout=limit
        )
        if ended.returncode:
            words = ended.stderr.strip().splitlines()[-1:] or ["no word"]
            raise LoadFailed(f"the generator ended with {ended.returncode}: {words[0]}")
        return [Block.read([out]) for _, out in files]


@contextmanager
def instrument(folder: Path) -> Iterator[Instrument]:
    """Starts the known server; it ends with the block."""
    write_bodies(folder / "body.npz", [BODY])
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest.calibration.known"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None  # noqa: S101 - piped above
        assert server.stdout is not None  # noqa: S101
        words = server.stdout.readline().split()
        if len(words) != 2:
            raise LoadFailed("the known server does not start; see what it printed")
        try:
            yield Instrument(int(words[0]), int(words[1]), folder)
        finally:
            server.stdin.close()
            server.wait(10)
