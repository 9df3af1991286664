"""What a random PyTorch model is made of: blocks from [n, WIDTH] to [n, WIDTH], which TorchScript compiles."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 12


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.dense(x))


class Attended(nn.Module):
    """Between the numbers of one row."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.view(-1, 3, 4)
        weights = torch.softmax(torch.bmm(parts, parts.transpose(1, 2)) / 2.0, 2)
        return torch.bmm(weights, parts).reshape(-1, 12)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.filters(x.unsqueeze(1)).squeeze(1)


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1) * 0.2


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x, 1)[0]


class Standardised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1)


class LessTheMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class OfAllRows(nn.Module):
    """Batch normalisation by the batch itself, as a network in training mode has it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-3)


class Shares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, 0)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().max() + 1e-3)


class Quantised(nn.Module):
    """To 255 steps, one scale for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max() / 127 + 1e-9
        return torch.round(x / scale) * scale


class BetweenRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(torch.softmax(torch.matmul(x, x.t()), 1), x)


class Rolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, 1, 0) + x


class Running(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 0)


class FirstAdded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x[0]


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / float(x.size(0))


class Reversed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flip(x, [0]) * 0.5 + x


APART: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Linear(WIDTH, WIDTH),
    nn.ReLU,
    nn.Tanh,
    lambda: nn.LayerNorm(WIDTH),
    lambda: nn.BatchNorm1d(WIDTH),
    lambda: nn.Softmax(1),
    Residual,
    Attended,
    Convolved,
    Cumulative,
    Sorted,
    Standardised,
)
TOGETHER: tuple[Callable[[], nn.Module], ...] = (
    LessTheMean,
    OfAllRows,
    Shares,
    Scaled,
    Quantised,
    BetweenRows,
    Rolled,
    Running,
    FirstAdded,
    Counted,
    Reversed,
)


def draw(seed: int, *, independent: bool) -> tuple[str, nn.Module]:
    """A description and a model in evaluation mode. A dependent one has one such block at a random place."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    blocks = [chance.choice(APART)() for _ in range(chance.randint(1, 5))]
    if not independent:
        blocks.insert(chance.randint(0, len(blocks)), TOGETHER[seed % len(TOGETHER)]())
    return " ".join(type(block).__name__ for block in blocks), nn.Sequential(*blocks).eval()


def dynamic() -> tuple[str, nn.Module]:
    """One activation scale for the whole batch, by PyTorch's own means."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(WIDTH, WIDTH)).eval())
    return "dynamic int8 Linear", made
