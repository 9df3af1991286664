"""Do both variants compute the same? Asked over the wire, before, during and after the load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.errors import DuetError
from gateway.types import Array
from loadtest.failures import LoadFailed, NotComparable
from loadtest.fronts import Answer, Front, Signature, pinned
from loadtest.payloads import requests, rows
from loadtest.stack import Stack
from loadtest.wire import CallFailed, send
from models import parity
from models.catalog import CATALOG
from models.served import Served
from models.spec import FRAMEWORKS

ROWS, TOP1_ROWS, TOP1_BATCH = 256, 1024, 64
LEAST_TOP1 = 0.999
FILES_SECONDS = 180
Outputs = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Finding:
    """``of_tolerance`` is the greatest difference as a share of what is allowed; ``top1`` None where there is none."""

    when: str
    rows: int
    of_tolerance: float
    top1: float | None
    problem: str = ""


def check_files(model: Served, version: int, root: Path) -> str:
    """Recomputes the weights' fingerprints of both files. Returns the fingerprint; raises NotComparable."""
    command = [sys.executable, "-m", "models", "parity", model.name, "--version", str(version), "--json"]
    command += ["--out", str(root)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FILES_SECONDS)  # noqa: S603
        found = json.loads(ended.stdout)[0]
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise LoadFailed(f"`{' '.join(command[1:])}` did not tell the files' parity: {error}") from None
    if found["problems"]:
        raise NotComparable("; ".join(found["problems"]))
    return str(next(iter(found["fingerprints"].values())))


def check_wire(stack: Stack, front: Front, model: Served, version: int, when: str) -> Finding:
    """Edge cases and real rows, in several batch sizes, through the gateway. Raises NotComparable."""
    signature = Signature(model.name, version, model.outputs)
    inputs = rows(model, ROWS, edges=True)
    parts = [
        tuple(one for one in requests(model.inputs, [array[part] for array in inputs], part.stop - part.start)[0])
        for part in parity.slices(len(inputs[0]))
    ]
    answers = {variant: [_ask(stack, front, signature, variant, part) for part in parts] for variant in FRAMEWORKS}
    worst = max(of_tolerance(one, other) for one, other in zip(*answers.values(), strict=True))
    top1 = _top1(stack, front, model, signature) if _names_a_class(model) else None
    problem = _problem(worst, top1)
    finding = Finding(when, len(inputs[0]), worst, top1, problem)
    if problem:
        raise NotComparable(f"{model.name} {version} {when} the load: {problem}")
    return finding


def _problem(worst: float, top1: float | None) -> str:
    if worst > 1:
        return f"the outputs differ by {worst:.3g} times the tolerance; export both from the same weights"
    if top1 is not None and top1 < LEAST_TOP1:
        return f"the most likely class agrees in {top1:.2%} of rows alone; at least {LEAST_TOP1:.1%} is wanted"
    return ""


def _names_a_class(model: Served) -> bool:
    return model.name in CATALOG and CATALOG[model.name].measure.name in parity.NAMES_A_CLASS


def _top1(stack: Stack, front: Front, model: Served, signature: Signature) -> float:
    asked = requests(model.inputs, rows(model, TOP1_ROWS, seed=1), TOP1_BATCH)
    first = model.outputs[0].name
    agreements = [
        parity.agreement(*(_ask(stack, front, signature, variant, part)[first] for variant in FRAMEWORKS))
        for part in asked
    ]
    return float(np.mean(agreements))


def _ask(stack: Stack, front: Front, signature: Signature, variant: str, inputs: Sequence[object]) -> Outputs:
    call = pinned(front.encode(signature, inputs), variant)  # type: ignore[arg-type]  # tensors, by requests()
    try:
        return front.decode(signature, send(stack.gateway(front.transport), call))
    except (CallFailed, DuetError) as error:
        raise LoadFailed(f"{variant} does not answer a probe: {error}") from error


def of_tolerance(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Infinite where the outputs' names differ."""
    if one.keys() != other.keys():
        return float("inf")
    return max(parity.between(one[name], other[name])[2] for name in one)


def expected(stack: Stack, front: Front, signature: Signature, asked: Sequence[Sequence[object]]) -> list[Outputs]:
    """What TensorFlow answers to each payload: both legs' answers under load are held against it."""
    return [_ask(stack, front, signature, FRAMEWORKS[0], inputs) for inputs in asked]


def check_sampled(
    front: Front, signature: Signature, answers: Sequence[tuple[int, Answer]], wanted: Sequence[Outputs]
) -> tuple[float, str]:
    """The greatest difference of answers kept under load, as a share of the tolerance, and what is wrong with them."""
    worst = 0.0
    for payload, answer in answers:
        try:
            found = front.decode(signature, answer)
        except (DuetError, ValueError, KeyError) as error:
            return float("inf"), f"an answer under load cannot be read: {error}"
        worst = max(worst, of_tolerance(found, wanted[payload]))
    return worst, _problem(worst, None)
