"""A short look at both variants of a twin through the gateway, under the same load, in turns.

It is a look, not a verdict: callers wait for their answers (closed loop), and a few seconds settle no difference of
some ten percent.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from loadtest.recorder import Block

LOCUSTFILE = Path(__file__).with_name("locustfiles") / "v2_rest.py"
VARIANTS = ("tensorflow", "pytorch")


class LoadFailed(Exception):
    """The load could not be made; the text says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of all blocks of one variant. Latencies in milliseconds, percentiles over every request, failed ones included."""

    variant: str
    requests: int
    failed: int
    requests_per_second: float
    p50: float
    p95: float
    p99: float


def order(rounds: int) -> list[str]:
    """ABBA BAAB ...: what drifts during the run falls on both alike.

    >>> order(2)
    ['tensorflow', 'pytorch', 'pytorch', 'tensorflow']
    """
    turns: list[str] = []
    for index in range(rounds):
        turns += VARIANTS if index % 4 in (0, 3) else VARIANTS[::-1]
    return turns


def run(
    *, url: str, model: str, users: int, seconds: float, rounds: int, warm_up: float, report: Callable[[str], None]
) -> list[Result]:
    """Loads each variant for ``seconds`` in each of ``rounds``. Raises LoadFailed."""
    blocks: dict[str, list[Block]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="duet-") as folder:
        for index, variant in enumerate(order(rounds)):
            report(f"{variant}, {users} callers, {seconds:g} s ({index + 1} of {2 * rounds})")
            path = Path(folder) / f"{index}.npy"
            _load(url, model, variant, users, warm_up + seconds, path)
            blocks[variant].append(Block.read(path).after(warm_up))
    return [summarise(variant, blocks[variant]) for variant in VARIANTS]


def summarise(variant: str, blocks: list[Block]) -> Result:
    """Raises LoadFailed where no request was answered."""
    milliseconds = np.concatenate([block.milliseconds for block in blocks])
    if not len(milliseconds):
        raise LoadFailed(f"{variant}: not one request ended; is the gateway up?")
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return Result(
        variant,
        requests=len(milliseconds),
        failed=int(sum(block.failed.sum() for block in blocks)),
        requests_per_second=len(milliseconds) / sum(block.seconds for block in blocks),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
    )


def _load(url: str, model: str, variant: str, users: int, seconds: float, samples: Path) -> None:
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--loglevel", "ERROR"]
    command += ["-f", str(LOCUSTFILE), "--host", url, "-u", str(users), "-r", str(users), "-t", f"{ceil(seconds)}s"]
    command += ["--model", model, "--variant", variant, "--samples", str(samples)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if not samples.exists():
        raise LoadFailed(f"Locust ended with exit code {finished.returncode}:\n{finished.stderr.strip()[-2000:]}")
