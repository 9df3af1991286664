"""State: a TorchScript graph that writes its own module is refused, as all callers would share what it keeps.

The kind: whatever `forward` leaves behind for the next call. An attribute that is set, a buffer or parameter that is
written in place (itself, a view of it, one element), a list or dict attribute that grows, the same in submodules and
behind branches and loops, statistics that a norm in training mode updates, a constant of a trace. What is local to the
call, or only there for training, is none of it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.frameworks.pytorch import torchscript
from tests.models.imports import bring, imported


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.zeros(4)
        self.count = 0
        self.register_buffer("cache", torch.zeros(2, 4))
        self.states = [torch.zeros(4)]
        self.named = {"a": torch.zeros(4)}
        self.norm = nn.BatchNorm1d(4)


class Sets(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.hidden * 0.5 + x.sum(0)
        return x + self.hidden


class Counts(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


class AddsInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.cache.add_(1)
        return x + self.cache[0]


class WritesAnElement(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.cache[1] = x[0]
        return x + self.cache[1]


class WritesAView(Base):
    def forward(self, x: Tensor) -> Tensor:
        row = self.cache.view(-1)[:4]
        for _ in range(x.size(0)):
            row.mul_(2).add_(x[0])
        return x + row


class Appends(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.states.append(x[0])
        return x + self.states[len(self.states) - 1]


class WritesAStoredTensor(Base):
    def forward(self, x: Tensor) -> Tensor:
        first = self.states[0]
        first.copy_(x[0])
        return x + self.states[0]


class SetsAKey(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.named["b"] = x
        return x + self.named["a"]


class OnceInABranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        own = self.hidden if x.size(0) > 3 else x[0]
        own.zero_()
        return x + self.hidden


class NormInTraining(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


class Counter:
    def __init__(self, total: Tensor) -> None:
        self.total = total
        self.turns = 0

    def add(self, x: Tensor) -> None:
        self.total = self.total + x
        self.turns += 1


class ThroughAnObject(Base):
    """The object is of this call, and what it holds is the module's."""

    def forward(self, x: Tensor) -> Tensor:
        counter = Counter(self.cache)
        counter.total.add_(1)
        return x + self.cache[0]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), AddsInPlace())])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


KEEPING = {
    "sets": (Sets, "hidden"),
    "counts": (Counts, "count"),
    "adds in place": (AddsInPlace, "cache"),
    "writes an element": (WritesAnElement, "cache"),
    "writes a view": (WritesAView, "cache"),
    "appends": (Appends, "states"),
    "writes a stored tensor": (WritesAStoredTensor, "states"),
    "sets a key": (SetsAKey, "named"),
    "once in a branch": (OnceInABranch, "hidden"),
    "a norm in training mode": (NormInTraining, "norm.running_mean"),
    "through an object": (ThroughAnObject, "cache"),
    "nested": (Nested, "layers.0.1.cache"),
}


@pytest.mark.parametrize("case", KEEPING)
def test_a_model_that_writes_itself_is_refused_by_the_attributes_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    module, attribute = KEEPING[case]
    assert bring(tmp_path, module(), "--input", "x:FP32:-1,4") == 1
    complaint = capsys.readouterr().err
    assert f"its forward writes its attribute {attribute}" in complaint
    assert "all callers would share it" in complaint
    assert not (tmp_path / "artifacts" / "pytorch").exists()


@pytest.mark.parametrize("module", [AddsInPlace, WritesAView, NormInTraining], ids=lambda one: one.__name__)
def test_a_trace_that_writes_itself_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: type[nn.Module]
) -> None:
    with torchscript(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module().eval(), torch.ones(2, 4), check_trace=False)
    assert bring(tmp_path, traced, "--input", "x:FP32:-1,4") == 1
    assert "its forward writes its attribute" in capsys.readouterr().err


class OnlyInTraining(Base):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.hidden = x[0]
            self.cache.add_(1)
        return self.norm(x)


class Local(Base):
    """A list that holds an attribute, a copy of a buffer, a fresh tensor: all written, none kept."""

    def forward(self, x: Tensor) -> Tensor:
        steps = [self.hidden]
        steps.append(x[0])
        own = self.cache.clone()
        own.add_(1)
        made = torch.zeros_like(x)
        made[0] = x[0]
        return made + own[0] + torch.stack(steps).sum(0) + self.named["a"]


class AnObject(Base):
    def forward(self, x: Tensor) -> Tensor:
        counter = Counter(torch.zeros_like(x))
        counter.add(x + self.hidden)
        counter.total.add_(1)
        return counter.total * counter.turns


class Usual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(inplace=True))
        self.reads = nn.GRU(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.reads(self.layers(x))[0]


@pytest.mark.parametrize("module", [OnlyInTraining, Local, AnObject, Usual], ids=lambda one: one.__name__)
def test_what_is_local_or_only_for_training_is_served(tmp_path: Path, module: type[nn.Module]) -> None:
    x = torch.ones(1, 4)
    model = imported(tmp_path, module().eval(), "--input", "x:FP32:-1,4")
    first, second = (model.ask(x=x.numpy())["output"] for _ in range(2))
    assert (first == second).all()
