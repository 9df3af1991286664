"""What the analysis of a PyTorch graph concludes: never `independent` where rows meet, and often where they do not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.catalog import CATALOG
from models.importing.independence.torch_exported import analyse_exported
from models.importing.independence.torch_graph import analyse
from models.spec import TensorSpec
from tests.models.independence.strangers import STRANGERS
from tests.models.independence.torch_models import differs, draw, module
from tests.models.independence.traps import LAYERS, TRAPS, Trap

NO_TABLE = {"text_classifier": "aten::len.t"}
"""Documented models that are not concluded independent, with the operation that stands in the way."""
QUICK, LONG = 25, 3_000
LIKELY = 0.75
"""Share of the independent modules drawn that must be concluded so: what the analysis is for."""


def sampled(names: Iterable[str], every: int) -> list[Any]:
    """All of them, of which `make test` runs a few."""
    return [
        pytest.param(name, marks=() if place % every == 0 else pytest.mark.full) for place, name in enumerate(names)
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """TorchScript is deprecated, and tracing warns of each branch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scripted(model: nn.Module) -> Any:
    with quiet():
        return torch.jit.script(model)


def example(specs: Sequence[TensorSpec], rows: int, seed: int = 0) -> tuple[Tensor, ...]:
    """A free size is 16 in images, else 5."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for spec in specs:
        free = 16 if len(spec.shape) > 3 else 5
        shape = [rows, *(free if size == -1 else size for size in spec.shape[1:])]
        if spec.datatype.startswith("FP"):
            dtype = torch.float64 if spec.datatype == "FP64" else torch.float32
            found.append(torch.randn(shape, generator=generator, dtype=dtype))
        else:
            integers = torch.randint(0, 2, shape, generator=generator)
            found.append(integers.bool() if spec.datatype == "BOOL" else integers)
    return tuple(found)


def called(name: str, specs: Sequence[TensorSpec], values: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """As the module takes them."""
    if name == "dict inputs":
        return ({spec.name: value for spec, value in zip(specs, values, strict=True)},)
    return (list(values),) if name == "list inputs" else values


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_documented_models_are_concluded_independent(name: str) -> None:
    """Nine of the ten, as they are exported; of texts it is not known, and the reason names the operation."""
    spec = CATALOG[name]
    finding = analyse(scripted(spec.pytorch().eval()), spec.inputs)
    if name in NO_TABLE:
        assert finding.rows == "unknown"
        assert NO_TABLE[name] in finding.reason
    else:
        assert finding.rows == "independent", finding.reason


@pytest.mark.parametrize("name", sampled(STRANGERS, 8))
def test_strangers_nets_are_concluded_independent(name: str) -> None:
    """Vision, attention, recurrence, loops, dicts and optional inputs, compiled and traced."""
    model, specs = STRANGERS[name]
    assert analyse(scripted(model), specs).rows == "independent", analyse(scripted(model), specs).reason
    if name == "dict inputs":  # tracing takes no output of None
        return
    with quiet():
        values = called(name, specs, example(specs, 2))
        traced = torch.jit.trace(model, values, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    assert analyse(traced, specs).rows == "independent", analyse(traced, specs).reason


@pytest.mark.full
@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_nets_do_keep_rows_apart(name: str) -> None:
    """So that the test above asks for nothing wrong: each row alone, and all of them joined, in float64."""
    model, specs = STRANGERS[name]
    double = scripted(copy.deepcopy(model)).double()

    def run(*values: Tensor) -> Any:
        wide = tuple(value.double() if value.is_floating_point() else value for value in values)
        return double(*called(name, specs, wide))

    assert not any(differs(run, example(specs, 4, seed)) for seed in range(3))


@pytest.mark.full
@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_nets_are_concluded_independent_as_exported_programs(name: str) -> None:
    model, specs = STRANGERS[name]
    assert analyse_exported(exported(model, specs, name), specs).rows == "independent"


def exported(model: nn.Module, specs: Sequence[TensorSpec], name: str = "") -> torch.export.ExportedProgram:
    free: list[Any] = [
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape) if size == -1} for spec in specs
    ]
    if name == "dict inputs":
        free = [{spec.name: dims for spec, dims in zip(specs, free, strict=True)}]
    if name == "list inputs":
        free = [free]
    with quiet():
        values = called(name, specs, example(specs, 3))
        return torch.export.export(model, values, dynamic_shapes=tuple(free))


@pytest.mark.parametrize("name", sampled(TRAPS, 10))
def test_no_module_in_which_rows_meet_is_concluded_independent(name: str) -> None:
    """The kind: whatever lets a row see another one, its place, their number, chance, or an earlier call.

    Over axis 0 by any of its names, through views that fold or turn the axis of rows, by broadcasting, in place through
    views, by control flow, by sizes; also where the other sizes are free.
    """
    trap = TRAPS[name]
    made = module(trap.text, trap.state, trap.arguments)
    assert analyse(made, trap.specs).rows != "independent"
    assert analyse(made, freed(trap)).rows != "independent"


def freed(trap: Trap) -> list[TensorSpec]:
    return [TensorSpec(spec.name, spec.datatype, (-1,) * len(spec.shape)) for spec in trap.specs]


@pytest.mark.full
@pytest.mark.parametrize("name", TRAPS)
def test_rows_do_meet_in_each_trap(name: str) -> None:
    """So that the test above is about real ones: a trial refutes each."""
    trap = TRAPS[name]
    made = module(trap.text, trap.state, trap.arguments)
    assert any(differs(made, example(trap.specs, rows, seed)) for seed in range(4) for rows in (2, 3, 5, 1))


UNSURE = {
    "batch norm in training",
    "batch norm without statistics",
    "dropout in training",
    "instance norm in training",
    "convolution without a batch",
    "group norm of one image",
    "flatten from 0",
    "glu over rows",
}
"""They end in `unknown`; the other layers are certain to mix rows."""


@pytest.mark.parametrize("name", sampled(LAYERS, 7))
def test_layers_that_mix_rows_are_told(name: str) -> None:
    """PyTorch's own layers with the batch on another axis, without one, in training, or with one int8 scale."""
    make, specs = LAYERS[name]
    with quiet():
        layer = make()
    assert analyse(scripted(layer), specs).rows == ("unknown" if name in UNSURE else "dependent")


def test_random_modules_in_which_rows_meet_are_never_concluded_independent() -> None:
    check_drawn(range(QUICK))


@pytest.mark.full
def test_thousands_of_random_modules(record_property: pytest.RecordProperty) -> None:
    record_property("share of independent modules that are concluded so", check_drawn(range(QUICK, LONG)))


def check_drawn(seeds: range) -> float:
    concluded = independent = 0
    for seed in seeds:
        made, specs, label = draw(seed)
        finding = analyse(made, specs)  # type: ignore[arg-type]
        assert "the analysis failed" not in finding.reason, (seed, finding.reason)
        if label == "dependent":
            assert finding.rows != "independent", seed
        else:
            independent += 1
            concluded += finding.rows == "independent"
    assert independent > len(seeds) / 8
    assert concluded > LIKELY * independent
    return concluded / independent


VECTOR = (TensorSpec("x", "FP32", (-1, 4)),)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = x - x.mean(0)", ["aten::mean.dim", "axis of rows"]),
        ("x = torch.relu(x)\nx = torch.linalg.det(x.view(-1, 2, 2))", ["aten::linalg_det", "not known"]),
        ("if bool(x.sum() > 0):\n    x = x * 2", ["branch", "aten::sum"]),
        ("x = x + torch.rand_like(x)", ["aten::rand_like", "chance"]),
        ("x = x.sum()", ["aten::sum"]),
        ("x = torch.zeros(3, 4)", ["no row for each row"]),
        ("x = x.t()", ["first axis"]),
    ],
)
def test_the_reason_names_the_operation(text: str, parts: list[str]) -> None:
    reason = analyse(module(text), VECTOR).reason
    assert all(part in reason for part in parts), reason


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        return y - y.mean(0)


def test_the_reason_names_the_line_of_the_model() -> None:
    for finding in (analyse(scripted(Centred()), VECTOR), analyse_exported(exported(Centred(), VECTOR), VECTOR)):
        assert finding.rows == "dependent"
        assert "test_torch_graph.py" in finding.reason
        assert "y - y.mean(0)" in finding.reason
        assert "/" not in finding.reason


@pytest.mark.parametrize("shape", [(4,), (1, 4), ()])
def test_an_input_without_a_free_first_dimension_cannot_be_joined(shape: tuple[int, ...]) -> None:
    specs = (*VECTOR, TensorSpec("y", "FP32", shape))
    finding = analyse(module("x = x + y", arguments="x: Tensor, y: Tensor"), specs)
    assert finding.rows == "unknown"
    assert "input y" in finding.reason


@dataclass(frozen=True, slots=True)
class MayLack:
    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = True


@pytest.mark.parametrize(
    ("otherwise", "rows"), [("x = x * 2", "independent"), ("x = x - x.mean(0)", "dependent"), ("x = x[0:1]", "unknown")]
)
def test_an_input_that_may_be_left_out_is_looked_at_both_ways(otherwise: str, rows: str) -> None:
    text = f"if y is not None:\n    x = x + y\nelse:\n    {otherwise}"
    made = module(text, arguments="x: Tensor, y: Optional[Tensor] = None")
    specs: Any = (*VECTOR, MayLack("y", "FP32", (-1, 4)))
    assert analyse(made, specs).rows == rows


def test_texts_are_not_known_to_stay_apart() -> None:
    made = module("return torch.tensor([float(len(one)) for one in x])", arguments="x: List[str]")
    assert analyse(made, (TensorSpec("x", "BYTES", (-1,)),)).rows == "unknown"


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(1)
        return x + self.total


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Meets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.t(), 1) @ x


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        pytest.param(Stateful(), "unknown", marks=pytest.mark.full),
        pytest.param(Draws(), "unknown", marks=pytest.mark.full),
        pytest.param(Meets(), "dependent", marks=pytest.mark.full),
        pytest.param(nn.Linear(4, 2), "independent", marks=pytest.mark.full),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_exported_programs_are_judged_by_the_same_table(model: nn.Module, rows: str) -> None:
    assert analyse_exported(exported(model, VECTOR), VECTOR).rows == rows


@pytest.mark.full
def test_a_program_that_was_exported_for_a_number_of_rows_is_not_joined() -> None:
    with quiet():
        program = torch.export.export(nn.Linear(4, 2), (torch.randn(2, 4),))
    finding = analyse_exported(program, VECTOR)
    assert finding.rows == "unknown"
    assert "2 rows" in finding.reason
