"""Modules that answer a row otherwise beside other rows, each in its own way: none may be taken for independent.

A trap is a text for `torch_models.module`, with its state, its inputs, and whether rows are already known to meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

from models.spec import TensorSpec
from tests.models.independence.attacks import ATTACKS


@dataclass(frozen=True)
class Trap:
    text: str
    shapes: tuple[tuple[int, ...], ...] = ((4,),)
    """Of a row of each input."""
    state: dict[str, Any] = field(default_factory=dict)
    datatypes: tuple[str, ...] = ("FP64",)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        kinds = self.datatypes * len(self.shapes) if len(self.datatypes) == 1 else self.datatypes
        return tuple(
            TensorSpec("xyz"[place], kind, (-1, *shape))
            for place, (shape, kind) in enumerate(zip(self.shapes, kinds, strict=True))
        )

    @property
    def arguments(self) -> str:
        return ", ".join(f"{spec.name}: Tensor" for spec in self.specs)


def weights(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, int(torch.tensor(shape).prod())).reshape(shape).double()


TWO = ((4,), (4,))
IMAGE = ((2, 4, 4),)
SEQUENCE = ((3, 4),)

REDUCTIONS = """
x = x - x.mean(0)
x = x - x.mean(0, keepdim=True)
x = x - x.mean()
x = x - x.mean(-2)
x = x / x.sum(0)
x = x / (x.norm() + 1)
x = x / (x.norm(2, dim=0) + 1)
x = x - x.max()
x = x - x.max(0)[0]
x = x - x.min(dim=-2)[0]
x = x / (x.var(0, unbiased=False) + 1)
x = x / (x.std(unbiased=False) + 1)
x = x - x.median()
x = x - x.amax([0, 1])
x = x - torch.logsumexp(x, 0)
x = x * x.prod(0).sign()
x = x * (x > 0).any(0)
x = x * (x > 0).all()
x = x * torch.count_nonzero(x)
x = torch.softmax(x, 0)
x = torch.softmax(x, -2)
x = F.log_softmax(x, dim=0)
x = F.softmax(x.sum(1), dim=-1)
x = torch.cumsum(x, 0)
x = torch.cumprod(x, -2)
x = torch.sort(x, 0)[0]
x = torch.sort(x.sum(1))[0]
x = torch.argsort(x, 0).double()
x = torch.topk(x, x.size(0), dim=0)[0]
x = x + torch.argmax(x, 0)
x = x + torch.argmax(x)
x = F.normalize(x, dim=0)
x = x - torch.quantile(x, 0.5)
x = F.layer_norm(x, list(x.shape))
x = x * torch.linalg.norm(x)
x = x - torch.einsum("ij->j", x)
x = torch.einsum("ij,kj->ik", x, x)
x = x + torch.cdist(x, x).sum()
x = F.gumbel_softmax(x, dim=0)
x = (x.sum(0) / x.size(0)) + x
x = x - torch.stack([x, x]).mean((0, 1))
""".strip().splitlines()
MOVES = """
x = x.flip([0])
x = x.flip(0, 1)
x = torch.roll(x, 1, 0)
x = torch.roll(x, 1)
x = torch.rot90(x.unsqueeze(1), 2, [0, 1]).squeeze(1)
x = x[0].expand_as(x)
x = x[0:1] + x
x = x[-1] + x
x = x[1:]
x = x[::2]
x = x[torch.arange(x.size(0) - 1, -1, -1)]
x = x.index_select(0, torch.arange(x.size(0)).flip([0]))
x = torch.gather(x, 0, torch.zeros_like(x).long())
x = x.scatter(0, torch.zeros_like(x).long(), 1.0)
x = x[x.sum(1) > 0]
x = x.masked_select(x > 0)
x = torch.nonzero(x).double()
x = torch.unique(x)
x = torch.cat([x, x])
x = torch.cat([x, x], 0)[x.size(0) - 1 : -1]
x = torch.cat([x[1:], x[:1]], 0)
x = torch.stack([x, x], 0)[1][0:1] + x
x = x.chunk(2, 0)[0] + x
x = x.split(1)[0] + x
x = x.unbind(0)[0] + x
x = x.unsqueeze(0)
x = x.t()
x = x.transpose(0, 1)
x = x.repeat(2, 1)
x = x.repeat_interleave(2, 0)
x = x.reshape(-1)
x = x.reshape(4, -1)
x = x.view(x.size(1), x.size(0))
x = x.reshape(x.size(1), x.size(0)).t()
x = x.t().reshape(x.size(0), x.size(1))
x = x.t().contiguous().view(x.size(0), -1)
x = x.reshape(-1, 2).flip([0]).reshape(x.size(0), -1)
x = x.reshape(2, -1).softmax(1).reshape(x.size(0), -1)
x = x.reshape(1, -1).softmax(1).reshape(x.size(0), -1)
x = x.flatten().softmax(0).view_as(x)
x = x.flatten(0, 1).cumsum(0).view(-1, 4)
x = x.unfold(0, 1, 1).squeeze(-1)[0:1] + x
x = F.pad(x, [0, 0, 1, 0])[:-1]
x = torch.tril(x)
x = torch.triu(x.unsqueeze(0)).squeeze(0)
x = x.squeeze()
x = x.sum(1).squeeze()
x = x.diagonal().sum() + x
x = x.movedim(0, 1)
x = x.T
""".strip().splitlines()
MEETINGS = """
x = x @ x.t()
x = x.t() @ x
x = x.matmul(x.transpose(-1, -2)).softmax(-1) @ x
x = torch.mm(x, x.t())
x = x.sum(1) + x.sum(1).unsqueeze(1)
x = x[:, 0] * x[:, 1:2]
x = x[:, 0] + self.w.unsqueeze(1)
x = (x.unsqueeze(1) - x.unsqueeze(0)).sum(1)
x = x.unsqueeze(0) * x.unsqueeze(1)
x = torch.outer(x[:, 0], x[:, 0])
x = torch.dot(x[:, 0], x[:, 1]) + x
x = F.linear(x.t(), torch.ones(1, x.size(0), dtype=x.dtype)).t() + x
x = F.scaled_dot_product_attention(x.unsqueeze(0), x.unsqueeze(0), x.unsqueeze(0)).squeeze(0)
x = torch.baddbmm(x.unsqueeze(0), x.unsqueeze(0), self.m.unsqueeze(0)).squeeze(0).cumsum(0)
x = F.cosine_similarity(x.unsqueeze(1), x.unsqueeze(0), dim=-1)
x = F.conv1d(x, self.c, padding=1)
x = F.conv1d(x.t().unsqueeze(0), torch.ones(4, 4, 3, dtype=x.dtype), padding=1).squeeze(0).t()
x = F.avg_pool1d(x.t().unsqueeze(0), 3, 1, 1).squeeze(0).t()
x = F.adaptive_avg_pool1d(x.t(), 2).t()
x = F.interpolate(x.t().unsqueeze(0), scale_factor=2.0).squeeze(0).t()
x = F.batch_norm(x, None, None, training=True) if x.size(0) > 1 else x
x = F.batch_norm(x, self.w.clone(), self.w.abs().clone(), training=True) if x.size(0) > 1 else x
x = F.group_norm(x.t().unsqueeze(0), 1).squeeze(0).t()
x = F.instance_norm(x.t().unsqueeze(0).repeat(1, 1, 2))[0].t()[: x.size(0)]
""".strip().splitlines()
COUNTS = """
x = x * x.size(0)
x = x + len(x)
x = x / x.shape[0]
x = x + x.numel()
x = x + torch.arange(x.size(0), dtype=x.dtype).unsqueeze(1)
x = x + torch.linspace(0, 1, x.size(0), dtype=x.dtype).unsqueeze(1)
x = x @ torch.ones(4, x.size(0), dtype=x.dtype)
x = x + torch.full([4], x.size(0))
x = x.clamp(max=x.size(0) * 0.1)
x = x * (1.0 if x.size(0) == 1 else 2.0)
x = x * float(x.size(0) > 1)
x = x + torch.tensor(x.size(0))
x = x + torch.tensor([x.size(0)], dtype=x.dtype)
x = x.masked_fill(x > 0, float(x.size(0)))
x = x + torch.eye(x.size(0), 4, dtype=x.dtype)
x = x.pow(x.size(0))
x = x[:, : x.size(0)].sum(1, keepdim=True) + x
x = x.roll(x.size(0), 1)
x = F.pad(x, [0, x.size(0)])
x = x.narrow(1, 0, min(x.size(0), 4)).sum(1, keepdim=True) + x
x = x.select(1, min(x.size(0), 3)).unsqueeze(1) + x
x = torch.topk(x, min(x.size(0), 4), dim=1)[0].sum(1, keepdim=True) + x
x = x.norm(p=float(x.size(0)), dim=1, keepdim=True) + x
x = F.layer_norm(x, [4], eps=float(x.size(0)))
x = F.leaky_relu(x, x.size(0) * 0.1)
x = F.one_hot(x.abs().long()).double()
x = x + torch.bincount(x.abs().long().flatten()).sum()
x = x * (1.0 if x.is_contiguous() and x.t().is_contiguous() else 2.0)
""".strip().splitlines()
DECISIONS = """
x = x * (2.0 if bool(x.max() > 0) else 1.0)
x = x * (2.0 if x.sum().item() > 0 else 1.0)
x = x + x.max().item()
x = x + float(x.sum())
x = x[:, : int(x.abs().max()) + 1]
x = x[:, : int(x.abs().max().clamp(0, 3)) + 1].sum(1, keepdim=True) + x
""".strip().splitlines()
BLOCKS = (
    "if bool((x > 1).any()):\n    x = x * 2",
    "i = 0\nwhile bool(x.abs().sum() > 1) and i < 9:\n    x = x * 0.5\n    i += 1",
    "for i in range(x.size(0)):\n    x = x + 1",
    "s = x[0]\nfor row in x.unbind(0):\n    s = s + row\nx = x + s",
    "s = torch.zeros(4, dtype=x.dtype)\nfor i in range(x.size(0)):\n    s = s + x[i]\n    x = x + s",
    "k = 0\nfor i in range(int(x.abs().max())):\n    k += 1\nx = x * k",
    "y = x.clone()\ny[0] = 0.0\nx = y",
    "y = x.clone()\ny[0].zero_()\nx = y",
    "y = x.clone()\ny[1:].add_(1)\nx = y",
    "y = x.clone()\nz = y.select(0, 0)\nz.mul_(3)\nx = y",
    "y = torch.zeros_like(x)\ny.copy_(x.flip([0]))\nx = y",
    "y = torch.zeros_like(x)\ny[:] = x.mean(0)\nx = y",
    "y = torch.zeros(4, dtype=x.dtype)\ny += x.sum(0)\nx = x + y",
    "y = x.clone()\ny -= x.mean()\nx = y",
    "y = x.clone()\nz = y.t().reshape(-1)\nz.add_(1)\nx = y",
    "y = x.clone()\nz = y.t().contiguous()\nz.mul_(2)\nx = y",
    "y = x.clone()\nz = y.t().flatten()\nz.zero_()\nx = y",
    "y = x.clone()\nz = y.t().reshape(-1)\ny.add_(1)\nx = z.view(4, -1).t()",
    "y = x.clone()\nz = y.t().contiguous()\ny.mul_(2)\nx = z.t()",
    "y = x.clone()\nz = y.t().flatten()\ny[:, 0] = 5.0\nx = z.view(4, -1).t()",
    "y = x.clone()\nz = y\nfor i in range(x.size(1)):\n    y.add_(1)\n"
    "    z = y.t().reshape(-1).view(4, -1).t()\ny.add_(5)\nx = z",
    "y = x.clone()\nz = y\nw = y\nfor i in range(x.size(1)):\n    y.add_(1)\n"
    "    x = x + w\n    w = z\n    z = y.t().contiguous().t()",
    "y = torch.zeros(1, 4, dtype=x.dtype)\nz = y.expand(x.size(0), -1)\nz = z.contiguous()\nz.add_(x)\nx = x + y",
    "y = x.clone()\ny.index_fill_(0, torch.zeros(1, dtype=torch.long), 0.0)\nx = y",
    "y = x.clone()\ny.scatter_(0, torch.zeros_like(x).long(), 1.0)\nx = y",
    "y = x.clone()\ny[y.sum(1) > y.mean()] = 0.0\nx = y",
    "y = [x, x * 2]\ny[0] = x.flip([0])\nx = y[0] + y[1]",
    "y: List[Tensor] = []\nfor i in range(3):\n    y.append(x.roll(i, 0))\nx = y[0] + y[1] + y[2]",
    "y: List[Tensor] = []\nfor i in range(x.size(1)):\n    y.append(x.roll(i, 0))\nx = torch.stack(y).sum(0)",
    "y = {'a': x, 'b': x.flip([0])}\nx = y['a'] + y['b']",
    "y = (x, x.mean(0))\nx = y[0] - y[1]",
    "for i in range(3):\n    y = x.roll(1, 0) if i == 2 else x\n    x = x + y",
    "y = x\nfor i in range(x.size(1)):\n    x = x + y\n    y = y.flip([0])",
    "a = x\nb = x\nc = x.cumsum(0)\nfor i in range(x.size(1)):\n    a = b\n    b = c\nx = a",
    "n = 0\nfor i in range(x.size(1)):\n    n += x.size(0)\nx = x * n",
    "y = x.new_zeros(x.size(0))\ny[0] = 1.0\nx = x * y.unsqueeze(1)",
    "y = torch.zeros(x.size(0), 1, dtype=x.dtype)\ny.select(0, 0).fill_(5)\nx = x + y",
    "n = x.size(1)\nif x.size(0) > 2:\n    n = 2\nx = x[:, :n].sum(1, keepdim=True) + x",
    "x, i = torch.max(x, 0)",
    "y = x.flip([0])\nx = x + 0 * x\nx = x if x.dim() == 3 else y",
)
FREE = (
    # Sizes that are free and not the rows: an accident of equal sizes must not be taken for a rule.
    Trap("x = x.reshape(x.size(1), x.size(0), -1)", SEQUENCE),
    Trap("x = x.view(x.size(0) * x.size(1), -1).cumsum(0).view_as(x)", SEQUENCE),
    Trap("x = x.transpose(0, 1).reshape(x.size(0), -1)", SEQUENCE),
    Trap("x = x.transpose(0, 1).reshape(x.size(0), x.size(1), -1)", SEQUENCE),
    Trap("x = x.permute(2, 0, 1).reshape(x.size(0), -1)", SEQUENCE),
    Trap("x = x.view(-1, x.size(1) * 2)", SEQUENCE),
    Trap("x = x.flatten(0, 1)[: x.size(0)]", SEQUENCE),
    Trap("x = x.flatten(0, 1).softmax(0).unflatten(0, (x.size(0), x.size(1)))", SEQUENCE),
    Trap("x = x.sum(-1)\nx = x.sum(-1) * x.mean(-1).unsqueeze(-1)", SEQUENCE),
    Trap("x = x.sum(2) + x.sum((1, 2))", SEQUENCE),
    Trap("x = x[:, 0, 0] + x[:, :, 0].sum(1).unsqueeze(1)", SEQUENCE),
    Trap("x = x.softmax(0)", SEQUENCE),
    Trap("x = F.softmax(x)", SEQUENCE),
    Trap("x = torch.bmm(x.transpose(0, 1), x.transpose(0, 1).transpose(1, 2))", SEQUENCE),
    Trap("x = torch.einsum('bti,sti->bst', x, x).sum(-1)", SEQUENCE),
    Trap("x = torch.cat([x.transpose(0, 1), x.transpose(0, 1)], 1).transpose(0, 1)", SEQUENCE),
)
PAIRS = (
    Trap("x = x @ y.t()", TWO),
    Trap("x = torch.cdist(x, y)", TWO),
    Trap("x = x.unsqueeze(1) + y.unsqueeze(0)", TWO),
    Trap("x = x + y.mean(0)", TWO),
    Trap("x = torch.cat([x, y])", TWO),
    Trap("x = (x @ y.t()).softmax(-1) @ y", TWO),
    Trap("x = x[:, 0] + y[:, :1]", TWO),
    Trap("x = x.index_select(0, (y[:, 0] > 0).long() * 0)", TWO),
    Trap("x = torch.einsum('bi,ci->bc', x, y)", TWO),
    Trap("x = torch.where((y > 0).any(), x, y)", TWO),
    Trap("x = x.gather(0, (y > 99).long())", TWO),
)
IMAGES = (
    Trap("x = F.batch_norm(x, None, None, training=True)", IMAGE),
    Trap("x = F.layer_norm(x, x.shape)", IMAGE),
    Trap("x = x - x.mean((0, 2, 3), keepdim=True)", IMAGE),
    Trap(
        "x = F.conv2d(x.transpose(0, 1).sum(0, keepdim=True), torch.ones(1, x.size(0), 1, 1, dtype=x.dtype)) + x", IMAGE
    ),
    Trap("x = F.conv2d(x.sum(1), torch.ones(x.size(0), x.size(0), 1, 1, dtype=x.dtype)).unsqueeze(1) + x", IMAGE),
    Trap("x = F.avg_pool3d(x.transpose(0, 1).unsqueeze(0), 3, 1, 1)[0].transpose(0, 1)", IMAGE),
    Trap("x = F.instance_norm(x.transpose(0, 1).flatten(1).unsqueeze(0))[0].view(2, -1, 4, 4).transpose(0, 1)", IMAGE),
    Trap("x = F.group_norm(x.transpose(0, 1), 1).transpose(0, 1)", IMAGE),
    Trap("x = F.local_response_norm(x.transpose(0, 1), 3).transpose(0, 1)", IMAGE),
    Trap("x = F.pixel_shuffle(x.transpose(0, 1).repeat(1, 4, 1, 1), 2).transpose(0, 1)", IMAGE),
    Trap("x = x.view(x.size(1), x.size(0), 4, 4).transpose(0, 1)", IMAGE),
    Trap("x = F.unfold(x.transpose(0, 1), 1)", IMAGE),
    Trap("x = F.dropout(x, 0.5, training=True)", IMAGE),
    Trap("x = F.dropout2d(x, 0.5, training=True)", IMAGE),
    Trap("x = x * torch.bernoulli(torch.full_like(x, 0.5))", IMAGE),
    Trap("x = x + torch.rand_like(x)", IMAGE),
    Trap("x = x + torch.randn(x.shape, dtype=x.dtype)", IMAGE),
    Trap("x = F.prelu(x.transpose(0, 1).contiguous(), torch.arange(x.size(0)).double()).transpose(0, 1)", IMAGE),
)
SHAPELESS = (
    Trap("x = torch.softmax(x, -1)", ((),)),
    Trap("x = x.cumsum(0)", ((),)),
    Trap("x = x + x.unsqueeze(1)", ((),)),
    Trap("x = x - x.mean()", ((),)),
    Trap("x = F.layer_norm(x, x.shape)", ((),)),
    Trap("x = x @ x", ((),)),
    Trap("x = x.sort()[0]", ((),)),
    Trap("x = x.unsqueeze(0).softmax(1).squeeze(0)", ((),)),
)
KEPT = (
    Trap("x = x + self.table[: x.size(0)]", state={"table": weights(8, 4)}),
    Trap("x = x + self.w.repeat(x.size(0)).flip([0]).view(x.size(0), -1).cumsum(0)", state={"w": weights(4)}),
    Trap("self.count += 1\nx = x * self.count", state={"count": 0}),
    Trap("self.total.add_(x.sum(0))\nx = x + self.total", state={"total": weights(4)}),
    Trap("self.total[:] = x[-1]\nx = x + self.total", state={"total": weights(4)}),
    Trap("self.total = x.sum(0)\nx = x + self.total", state={"total": weights(4)}),
    Trap("y = self.total.view(1, 4).expand(1, 4)\ny.add_(x.mean(0))\nx = x + self.total", state={"total": weights(4)}),
    Trap("x = F.linear(x.t(), self.m[: x.size(0) + 1, : x.size(0)]).t()[1:]", state={"m": weights(8, 8)}),
    Trap("x = F.embedding(torch.arange(x.size(0)), self.table) + x", state={"table": weights(8, 4)}),
    Trap("x = F.batch_norm(x, self.a, self.b, training=x.size(0) > 1)", state={"a": weights(4), "b": weights(4).abs()}),
    Trap("x = x + self.t", state={"t": weights(3, 4)}),
    Trap("x = x * self.t", ((3, 4),), state={"t": weights(2, 3, 1)}),
    Trap("x = torch.where(self.t > 0, x, -x)", ((),), state={"t": weights(5)}),
    Trap("x = torch.zeros(2 * x.size(0), 4)[::2] + x.flip([0])"),
    Trap("x = x.repeat(x.size(0), 1)"),
    Trap("self.kept.append(1)\nx = x * len(self.kept)", state={"kept": torch.jit.Attribute([1], list[int])}),
    Trap("y = self.w.to(x.dtype)\ny.add_(1)\nx = x + y", state={"w": weights(4)}),
    Trap("y = torch.einsum('i->i', self.w)\ny.add_(1)\nx = x + y", state={"w": weights(4)}),
    Trap("y = self.w.view(2, 2).t().unsqueeze(0)\ny.add_(1)\nx = x + y.sum()", state={"w": weights(4)}),
    Trap("y = torch.dropout(self.w, 0.5, False)\ny.add_(1)\nx = x + y", state={"w": weights(4)}),
    Trap("y = [self.w]\ny[0].add_(1)\nx = x + y[0]", state={"w": weights(4)}),
    Trap("x = self.w", state={"w": weights(1, 4)}),
    Trap("x = self.w.sum()", state={"w": weights(1, 4)}),
    Trap("x = torch.zeros(1, 4)"),
    Trap("x = x.sum()"),
    Trap("x = torch.zeros(x.size(1), x.size(0))"),
)


def named() -> dict[str, Trap]:
    state = {"w": weights(4), "m": weights(4, 4), "c": weights(1, 1, 3)}
    plain = [*REDUCTIONS, *MOVES, *MEETINGS, *COUNTS, *DECISIONS, *BLOCKS, *ATTACKS]
    found = [Trap(text, state=state) for text in plain]
    found += [*FREE, *PAIRS, *IMAGES, *SHAPELESS, *KEPT]
    return {trap.text.replace("\n", "; "): trap for trap in found}


TRAPS = named()


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Attends(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x)[0]


class Unsqueezed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0)


VECTORS = (TensorSpec("x", "FP32", (-1, 8)),)
SEQUENCES = (TensorSpec("x", "FP32", (-1, 3, 8)),)
PICTURES = (TensorSpec("x", "FP32", (-1, 3, 8, 8)),)
UNBATCHED = (TensorSpec("x", "FP32", (-1, 8, 8)),)
#: Layers of PyTorch's own, set so that they mix rows: how to make one, and its inputs.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[TensorSpec, ...]]] = {
    "lstm, time first": (lambda: First(nn.LSTM(8, 8)).eval(), SEQUENCES),
    "gru, time first": (lambda: First(nn.GRU(8, 8)).eval(), SEQUENCES),
    "rnn, time first": (lambda: First(nn.RNN(8, 8)).eval(), SEQUENCES),
    "lstm of one sequence": (lambda: First(nn.LSTM(8, 8, batch_first=True)).eval(), VECTORS),
    "attention, time first": (lambda: Attends(nn.MultiheadAttention(8, 2)).eval(), SEQUENCES),
    "attention of one sequence": (lambda: Attends(nn.MultiheadAttention(8, 2, batch_first=True)).eval(), VECTORS),
    "encoder, time first": (lambda: nn.TransformerEncoderLayer(8, 2, 16).eval(), SEQUENCES),
    "batch norm in training": (lambda: nn.BatchNorm1d(8).train(), VECTORS),
    "batch norm without statistics": (lambda: nn.BatchNorm1d(8, track_running_stats=False).eval(), VECTORS),
    "batch norm of images without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False).eval(), PICTURES),
    "dropout in training": (lambda: nn.Dropout(0.5).train(), VECTORS),
    "instance norm in training": (lambda: nn.InstanceNorm2d(3, track_running_stats=True).train(), PICTURES),
    "convolution without a batch": (lambda: nn.Conv1d(8, 8, 3, padding=1).eval(), VECTORS),
    "group norm of one image": (lambda: nn.Sequential(Unsqueezed(), nn.GroupNorm(1, 8)).eval(), UNBATCHED),
    "dynamic int8": (lambda: quantize_dynamic(nn.Sequential(nn.Linear(8, 8))).eval(), VECTORS),
    "dynamic int8 lstm": (
        lambda: quantize_dynamic(First(nn.LSTM(8, 8, batch_first=True)), {nn.LSTM}).eval(),
        SEQUENCES,
    ),
    "layer norm over rows": (lambda: nn.LayerNorm([3, 8]).eval(), VECTORS),
    "softmax over rows": (lambda: nn.Softmax(0).eval(), VECTORS),
    "2d softmax of one image": (lambda: nn.Softmax2d().eval(), UNBATCHED),
    "flatten from 0": (lambda: nn.Flatten(0).eval(), VECTORS),
    "glu over rows": (lambda: nn.GLU(0).eval(), VECTORS),
}
