"""Random models, imported and served with every default in place: no caller ever gets another answer than alone.

The kind: any model at all, row by row or not, behind a gateway that joins requests by default, under any callers.
`make test-rows` runs it; DUET_ROWS_JOINED, DUET_ROWS_MODELS and DUET_ROWS_SEED make it longer, wider or another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.__main__ import main
from models.artifacts import Artifact, Store
from models.frameworks.pytorch import torchscript
from models.spec import Array
from tests.rows import torch_blocks
from tests.rows.calls import Result, Served, ask, differences, table
from tests.stack import READY, Stack, start_stack

pytestmark = pytest.mark.rows

JOINED = int(os.environ.get("DUET_ROWS_JOINED", "20000"))
EACH = int(os.environ.get("DUET_ROWS_MODELS", "6"))
"""Of each framework, independent ones and dependent ones."""
SEED = int(os.environ.get("DUET_ROWS_SEED", "1"))
ROUND = 1_500
DEPENDENT_CALLS = 400
MOST_ROUNDS = 30
START_SECONDS = 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Served]]:
    """The artifacts' folder, and what was imported into it by `python -m models import` with no flag about rows."""
    folder = tmp_path_factory.mktemp("rows")
    root = folder / "artifacts"
    served = [*torch_models(folder, root), *tensorflow_models(folder, root)]
    return root, served


def torch_models(folder: Path, root: Path) -> Iterator[Served]:
    drawn = [
        (f"torch-{kind}-{place}", kind == "apart", torch_blocks.draw(SEED * 100 + place, independent=kind == "apart"))
        for kind in ("apart", "joint")
        for place in range(EACH)
    ]
    drawn.append(("torch-int8", False, torch_blocks.dynamic()))
    drawn.append(("torch-mean", False, ("x - x.mean(0)", nn.Sequential(torch_blocks.LessTheMean()))))
    for name, independent, (said, module) in drawn:
        path = folder / f"{name}.pt"
        with torchscript(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(module), str(path))
        bring(path, name, root, "--input", f"x:FP32:-1,{torch_blocks.WIDTH}", "--output", "y")

        def alone(rows: Array, module: nn.Module = module) -> Array:
            with torch.inference_mode():
                answer: Array = module(torch.from_numpy(rows)).numpy()
            return answer

        yield Served(name, said, "pytorch", independent, alone)


def tensorflow_models(folder: Path, root: Path) -> Iterator[Served]:
    from models.frameworks.tensorflow import quiet_stderr, tf
    from tests.rows import tensorflow_blocks

    for kind in ("apart", "joint"):
        for place in range(EACH):
            name, independent = f"tf-{kind}-{place}", kind == "apart"
            said, module = tensorflow_blocks.draw(SEED * 100 + 50 + place, independent=independent)
            path = folder / name
            with quiet_stderr():
                signatures = {"serving_default": module.serve.get_concrete_function()}
                tf.saved_model.save(module, str(path), signatures=signatures)
            bring(path, name, root)

            def alone(rows: Array, module: Any = module) -> Array:
                answer: Array = module.serve(rows)["y"].numpy()
                return answer

            yield Served(name, said, "tensorflow", independent, alone)


def bring(path: Path, name: str, root: Path, *flags: str) -> None:
    with redirect_stdout(StringIO()):
        assert main(["import", str(path), "--name", name, *flags, "--out", str(root)]) == 0


@pytest.fixture(scope="module")
def stack(models: tuple[Path, list[Served]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root, served = models
    names = ",".join(model.name for model in served)
    started = start_stack(
        tmp_path_factory.mktemp("stack"), "--artifacts", str(root), "--models", names, "--timeout", str(START_SECONDS)
    )
    try:
        started.wait_for_text(READY, START_SECONDS)
        yield started
    finally:
        started.stop()


def concluded(root: Path, model: Served) -> str:
    return str((Store(root).signature(Artifact(model.name, 1, model.variant)) or {})["rows"])


def test_no_caller_gets_another_answer_than_alone(
    models: tuple[Path, list[Served]], stack: Stack, record_property: Any
) -> None:
    root, served = models
    told = {model.name: concluded(root, model) for model in served}
    assert [model.name for model in served if not model.independent and told[model.name] == "independent"] == []
    results = {model.name: Result() for model in served}
    for turn in range(MOST_ROUNDS):
        for model in served:
            if turn and told[model.name] != "independent":
                continue
            count = ROUND if told[model.name] == "independent" else DEPENDENT_CALLS
            found = ask(stack, model, count=count, seed=SEED + turn)
            whole = results[model.name]
            whole.requests += found.requests
            whole.runs += found.runs if told[model.name] == "independent" else found.requests
            whole.wrong += found.wrong
            whole.failed += found.failed
        if sum(result.joined for result in results.values()) >= JOINED:
            break
    rows = [(model, told[model.name], results[model.name]) for model in served]
    joined = sum(result.joined for _, _, result in rows)
    wrong = [text for _, _, result in rows for text in result.wrong]
    failed = [text for _, _, result in rows for text in result.failed]
    print(f"\n{table(rows)}\n{joined} of {sum(r.requests for _, _, r in rows)} requests joined, {len(wrong)} wrong")
    record_property("joined", joined)
    record_property("wrong", len(wrong))
    assert wrong == []
    assert failed == []
    assert differences(stack) == 0, "the gateway's own samples blame a model whose rows are independent"
    assert joined >= JOINED


def test_what_was_drawn_is_what_it_is_called(models: tuple[Path, list[Served]]) -> None:
    """Otherwise the first test shows nothing: alone, and before and behind another row, by the framework itself."""
    _, served = models
    chance = np.random.default_rng(SEED)
    for model in served:
        differs = 0
        for _ in range(20):
            one, other = (chance.standard_normal((1, torch_blocks.WIDTH)).astype(np.float32) for _ in range(2))
            before = model.alone(np.concatenate([one, other * 100]))[:1]
            behind = model.alone(np.concatenate([other * 100, one]))[1:]
            alike = [np.allclose(model.alone(one), beside, rtol=1e-3, atol=1e-4) for beside in (before, behind)]
            differs += not all(alike)
        assert (differs == 0) is model.independent, f"{model.name}: {model.said}: {differs}"
