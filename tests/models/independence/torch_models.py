"""Random small TorchScript modules, some of which answer a row by that row alone and some of which do not.

`draw(seed)` gives one with its inputs and its label. The label is what a trial shows: many batches of different sizes
and scales, joined and each row alone, in float64. Modules are programs of a few random statements, half of which choose
their axis without looking at where the rows are.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.frameworks.pytorch import torchscript
from models.spec import TensorSpec

SHAPES = ((6,), (4, 6), (3, 4, 4), ())
BATCHES = (1, 2, 3, 4)
ALLOWED = 1e-7

#: Statements on a tensor `x`. {a}, {b}: an axis; {z}: an axis, possibly negative; {n}: the size of the last axis;
#: {w}: a new weight of {n} x {n}; {v}: a new weight of {n}; {k}: a small integer.
STATEMENTS = """
x = torch.relu(x)
x = torch.tanh(x) * {k}
x = x + {v}
x = x * {k} - 0.5
x = x @ {w}
x = F.linear(x, {w}, {v})
x = F.layer_norm(x, [{n}], {v}, None)
x = F.gelu(x).clamp(-{k}, {k})
x = torch.where(x > 0.1, x, x * 0.5)
x = x.masked_fill(x > {k}, 0.25)
x = x.flatten(1)
x = x.reshape(x.size(0), -1)
x = x.view(x.shape[0], x.shape[1], -1)
x = x.unsqueeze(1).expand(-1, {k}, *[-1] * {more}).contiguous() if False else x.unsqueeze(1)
x = torch.cat([x, x * 2], dim=-1)
x = torch.stack([x, torch.sin(x)], dim=1)
x = x.sum(-1)
x = x.max(dim=-1)[0]
x = x[:, 0]
x = x[:, -1:]
x = x[..., ::2]
x = x.unsqueeze(-1) * {v}
x = F.softmax(x, dim=-1)
x = x - x.mean(-1, keepdim=True)
x = x / (x.norm(dim=-1, keepdim=True) + 0.1)
x = torch.cumsum(x, 1)
x = torch.sort(x, dim=-1)[0]
x = torch.topk(x, 2, dim=-1)[0]
x = F.pad(x, [1, 2])
x = x + torch.arange(x.size(-1), dtype=x.dtype)
x = x * torch.arange(x.size(1), dtype=x.dtype).unsqueeze(-1)
x = x.repeat_interleave(2, dim=1)
x = x.chunk(2, dim=-1)[0]
x = torch.einsum("bij,bkj->bik", x, x)
x = x.matmul(x.transpose(-1, -2))
x = F.conv1d(x, torch.ones(2, x.size(1), 3, dtype=x.dtype), padding=1)
x = F.max_pool1d(x, 2)
x = F.adaptive_avg_pool1d(x, 2)
x = F.group_norm(x, 1)
x = F.instance_norm(x)
x = F.batch_norm(x, torch.zeros(x.size(1), dtype=x.dtype), torch.ones(x.size(1), dtype=x.dtype))
x = F.batch_norm(x, None, None, training=True)
x = F.interpolate(x, scale_factor=2.0)
x = x.gather(1, (x > 0).long())
x = x[:, torch.tensor([0, 0])]
x = F.softmax(x, dim={z})
x = F.log_softmax(x, {z})
x = x - x.mean({z}, keepdim=True)
x = x - x.amax({z}, keepdim=True)
x = x.sum({z})
x = x.std({z}, unbiased=False)
x = torch.cumsum(x, {z})
x = torch.sort(x, dim={z})[0]
x = x.flip([{z}])
x = torch.roll(x, 1, {z})
x = x.argmax({z}).to(x.dtype)
x = torch.logsumexp(x, {z})
x = x.transpose({a}, {b})
x = x.transpose(0, 1)
x = x.permute(list(range(x.dim()))[::-1])
x = x.movedim({a}, {b})
x = x.unsqueeze({z})
x = x.squeeze({z})
x = x.select({z}, 0)
x = x.narrow({z}, 0, 1)
x = torch.cat([x, x], dim={z})
x = torch.stack([x, x + 1], dim={z})
x = torch.cat(x.split(1, {z})[::-1], {z})
x = torch.stack(x.unbind({z}), {z})
x = x.repeat_interleave(2, dim={z})
x = x.reshape(-1, {n})
x = x.view(-1, x.size(-1))
x = x.view(x.size(1), x.size(0), -1)
x = x.reshape(-1, 2)
x = x.flatten(0, 1)
x = x.unflatten(0, (-1, x.size(0)))
x = x.view(x.size(0), -1, 2)
x = x - x.mean()
x = x / (x.abs().max() + 1)
x = x * (x.sum() > 0).to(x.dtype)
x = x * x.size(0)
x = x + x.size({a})
x = x + torch.arange(x.size(0), dtype=x.dtype).unsqueeze(-1)
x = x + x[0]
x = x - x[-1:]
x = x[:1] + x
x = x @ x.t() if x.dim() == 2 else x
x = x.t() @ x if x.dim() == 2 else x
x = x.unsqueeze(1) - x.unsqueeze(0)
x = x + x.sum(-1)
x = x.sum(-1) + x.select(-1, 0).unsqueeze(-1)
x = torch.tril(x)
x = x.squeeze()
x = torch.einsum("ij,kj->ik", x, x)
x = torch.einsum("ij->j", x).unsqueeze(0) + x
x = F.layer_norm(x, list(x.shape))
x = F.normalize(x, dim={z})
x = x.masked_fill(x > x.mean(), 0.0)
x = x[x.sum(-1) > 0] if x.dim() == 2 else x
x = x * (1 if x.size(0) > 2 else 2)
x = x * (1 if x.size(-1) > 2 else 2)
x = x * (1 if bool(x.max() > 1) else 2)
y = x.clone(); y[0] = 0.0; x = y
y = x.clone(); y[:, 0] = 1.0; x = y
y = x.clone(); y.select({z}, 0).mul_(2); x = y
y = torch.zeros_like(x); y.copy_(x.flip([0])); x = y + x
y = torch.zeros(x.size(0), x.size(1), dtype=x.dtype); y[:] = x[:, :] if x.dim() == 2 else 0.0; x = y
y = x.clone(); z = y.transpose(0, 1).reshape(-1); z.add_(1); x = y
y = x.clone(); z = y.transpose(0, 1).contiguous(); z.mul_(3); x = y
y = x.expand_as(x).clone(); y.add_(x); x = y
x = x.scatter({a}, (x > 0).long(), 1.0)
x = x.gather({a}, (x > 0).long())
x = x.index_select({a}, torch.tensor([0]))
x = torch.cat([x, torch.zeros_like(x)], {z})
x = x + torch.zeros(x.size(0), 1, dtype=x.dtype)
x = x + torch.ones(x.size(1), dtype=x.dtype)
x = x.repeat([2] + [1] * (x.dim() - 1))
x = x.unsqueeze(0).repeat([2] + [1] * x.dim()).sum(0)
x = F.avg_pool1d(x, 2, ceil_mode=True)
x = x.unfold({z}, 2, 1)
x = F.cosine_similarity(x, x.flip([-1]), dim={z})
x = x.var({z}, keepdim=True) + x
x = torch.einsum("ij,jk->ik", x, torch.ones(x.size(1), 2, dtype=x.dtype))
x = torch.einsum("ijk->ikj", x)
x = torch.einsum("bij,bjk->bik", x, x.transpose(1, 2))
x = torch.einsum("bij,bij->bi", x, x)
x = torch.einsum("bij,cij->bc", x, x)
x = torch.einsum("bij,bij->ij", x, x)
x = F.scaled_dot_product_attention(x, x, x)
x = F.scaled_dot_product_attention(x.unsqueeze(1), x.unsqueeze(1), x.unsqueeze(1), is_causal=True).squeeze(1)
x = F.glu(torch.cat([x, x], {z}), {z})
x = F.glu(torch.cat([x, x], -1), -1)
x = F.pixel_shuffle(x.repeat_interleave(4, -3), 2)
x = F.pixel_unshuffle(x, 2)
x = F.channel_shuffle(x, 2)
x = F.conv2d(x, torch.ones(2, x.size(1), 3, 3, dtype=x.dtype), padding=1)
x = F.conv2d(x, torch.ones(x.size(1), 1, 1, 1, dtype=x.dtype), groups=x.size(1))
x = F.conv2d(x, torch.ones(2, x.size(-3), 1, 1, dtype=x.dtype))
x = F.conv1d(x, torch.ones(2, x.size(-2), 1, dtype=x.dtype))
x = F.conv_transpose1d(x, torch.ones(x.size(1), 2, 2, dtype=x.dtype), stride=2)
x = F.conv_transpose2d(x, torch.ones(x.size(1), 2, 2, 2, dtype=x.dtype), stride=2)
x = F.max_pool2d(x, 2)
x = F.avg_pool2d(x, 3, 1, 1)
x = F.adaptive_avg_pool2d(x, [1, 2])
x = F.adaptive_max_pool2d(x, 1)
x = F.interpolate(x, size=[2, 2], mode="bilinear")
x = F.interpolate(x, scale_factor=0.5)
x = F.prelu(x, torch.ones(1, dtype=x.dtype) * 0.1)
x = F.prelu(x, torch.arange(x.size(1), dtype=x.dtype))
x = F.instance_norm(x, use_input_stats=True)
x = F.group_norm(x, x.size(1))
x = F.local_response_norm(x, 2)
x = F.rms_norm(x, [{n}])
x = torch.addmm(x, x, {w})
x = torch.baddbmm(x, x, x.transpose(1, 2) @ x)
x = torch.lerp(x, x.flip([-1]), 0.3)
x = torch.addcmul(x, x, x.flip([{z}]))
x = torch.tile(x, [2])
x = x.repeat(1, 2) if x.dim() == 2 else x
x = torch.broadcast_tensors(x, x[:1])[0]
x = torch.broadcast_tensors(x[..., :1], x)[0]
x = x[:, :1].expand_as(x)
x = x.unsqueeze({z}).expand([2] + [-1] * x.dim()) if False else x.unsqueeze(0).expand([2] + [-1] * x.dim())[1]
x = x.movedim([0, 1], [1, 0])
x = x.unflatten(-1, [-1, 2])
x = x.unflatten({z}, [-1, 1])
x = x.tensor_split(2, -1)[0]
x = torch.stack(x.split(2, -1), 0)[0]
x = torch.cat(x.chunk(2, {z}), -1)
x = x[torch.tensor([0])]
x = x[:, torch.tensor([[0, 0]])]
x = x[..., torch.tensor([0, 0])]
x = x.sum({z}, keepdim=True) * x
x = F.one_hot((x.sum(-1) > 0).long(), 2).to(x.dtype)
x = F.embedding((x > 0).long(), torch.ones(2, 3, dtype=x.dtype).cumsum(0))
x = torch.ones(2, dtype=x.dtype).cumsum(0)[(x > 0).long()]
x = x.gather({z}, (x > 0).long() * 0)
x = x.scatter_add({z}, (x > 0).long(), x)
x = torch.triu(x, 1) + x
x = x.mT
x = x.t()
x = x.T
x = x.swapaxes({a}, {b})
x = x.roll([1, 1], [{a}, {b}])
x = torch.cummax(x, {z})[0]
x = torch.median(x, {z})[0]
x = torch.kthvalue(x, 1, dim={z})[0]
x = torch.norm(x, 2, dim={z}, keepdim=True) + x
x = (x > 0).all({z}).to(x.dtype)
x = (x > 0).any({z}, keepdim=True).to(x.dtype) + x
x = torch.count_nonzero(x > 0, dim={z}).to(x.dtype)
x = F.softmin(x, dim={z})
x = F.cosine_similarity(x, x * x, dim={z})
x = F.pad(x, [1, 0, 0, 1])
x = F.pad(x, [0, 0, 1, 0])
x = F.pad(x, [1, 1], mode="reflect")
x = x.reshape(x.size(0), x.size(1), -1, 2)
x = x.reshape(x.size(1), x.size(0), -1).transpose(0, 1)
x = x.transpose(0, 1).reshape(x.size(1), -1).view(x.size(1), x.size(0), -1).transpose(0, 1)
x = x.transpose(0, 1).reshape(-1, x.size(0)).t()
x = x.reshape(x.size(0) * x.size(1), -1)
x = x.view(x.size(0) // 1, -1)
x = x.view(-1, x.size(-2) * x.size(-1))
x = x.view(x.size(0) * 2, -1)
x = x.view(2 * x.size(0), -1).view(x.size(0), -1)
x = x.flatten(0, 1).softmax(0).view_as(x)
x = x.flatten(0, 1).softmax(-1).view_as(x)
x = x.flatten(0, 1).flip([0]).view_as(x)
x = x.repeat_interleave(2, 0).view(x.size(0), 2, -1).sum(1)
x = x.repeat([2] + [1] * (x.dim() - 1)).view(x.size(0), 2, -1).sum(1)
x = x.repeat([2] + [1] * (x.dim() - 1)).view(2, x.size(0), -1).sum(0)
x = x.unsqueeze(1).expand([-1, 2] + [-1] * (x.dim() - 1)).reshape([-1] + list(x.shape[1:]))[: x.size(0)]
x = torch.matmul(x.unsqueeze(-2), x.unsqueeze(-1)).squeeze(-1)
x = torch.matmul(torch.ones(2, x.size(-2), dtype=x.dtype), x)
x = torch.matmul(torch.ones(2, x.size(0), dtype=x.dtype), x)
x = F.linear(x.transpose(0, 1), torch.ones(2, x.size(0), dtype=x.dtype)) if x.dim() == 2 else x
x = x + x.mean((-1, -2), keepdim=True)
x = x + x.mean((0, -1), keepdim=True)
x = x - x.sum([{a}, {b}], keepdim=True)
x = x.as_strided(x.size(), x.stride())
x = x.new_zeros(x.shape) + x
x = x.new_full([x.size(0), 1], 2.0) * x
x = torch.zeros(x.size(0), x.size(1), dtype=x.dtype).cumsum({z}) + x
x = torch.ones(x.size(0), x.size(1), dtype=x.dtype).cumsum({z}) + x
x = torch.full([x.size(1), x.size(0)], 0.5).to(x.dtype).t() + x
x = torch.ones(x.size(-1), dtype=x.dtype).expand(x.size(0), -1).cumsum(0) + x
x = torch.eye(x.size(1), dtype=x.dtype)[: x.size(0)] + x
x = torch.meshgrid([torch.arange(x.size(-1)), torch.arange(2)])[0].sum(1).to(x.dtype) + x
y = x.clone(); y.transpose(0, 1)[0] = 1.0; x = y
y = x.clone(); y.unsqueeze(0)[0].mul_(2); x = y
y = x.clone(); y.unsqueeze(0).select({z}, 0).mul_(2); x = y
y = x.clone(); y.view(-1)[0] = 4.0; x = y
y = x.clone(); y.flatten(1).mul_(2); x = y
y = x.clone(); z = y.flatten(0, 1); y.add_(1); x = z
y = x.clone(); z = y.movedim(0, -1).reshape(-1); y.add_(1); x = z.view(-1, x.size(0)).t()
y = x.clone(); y.scatter_({z}, (x > 0).long(), 1.0); x = y
y = torch.zeros_like(x[0]); y.add_(x[0]); x = x + y
y = x[:, 0].clone(); x = x + y.unsqueeze(-1) if x.dim() == 2 else x
""".strip().splitlines()
BLOCKS = """
acc = torch.zeros_like(x[:, 0])\nfor i in range(x.size(1)):\n    acc = torch.tanh(acc + x[:, i])\nx = acc
parts: List[Tensor] = []\nfor i in range(x.size(1)):\n    parts.append(x[:, i] * i)\nx = torch.stack(parts, 1)
acc = torch.zeros_like(x[0])\nfor i in range(x.size(0)):\n    acc = acc + x[i]\nx = x + acc
parts: List[Tensor] = []\nfor i in range(x.size(0)):\n    parts.append(x[i])\nx = torch.stack(parts, 0)
if x.size(-1) > 3:\n    x = x * 2\nelse:\n    x = x.flip([-1])
if x.size(0) > 1:\n    x = x * 2\nelse:\n    x = x + 1
if bool(x.sum() > 0):\n    x = x * 2
i = 0\nwhile i < 3:\n    x = x * 0.5 + i\n    i += 1
i = 0\nwhile bool(x.abs().sum() > 1) and i < 5:\n    x = x * 0.5\n    i += 1
found: Dict[str, Tensor] = {"x": x}\nfound["y"] = x * 2\nx = found["x"] + found["y"]
steps: List[Tensor] = [x]\nfor i in range(3):\n    steps.append(steps[-1] * 0.5 + steps[0])\nx = steps[-1]
""".strip().splitlines()
F = functional
"""TorchScript finds names of the text where `define` is called."""


class Text:
    """A program as it grows, run by Python for several batches at once, so that each statement fits."""

    def __init__(self, shape: Sequence[int], chance: random.Random) -> None:
        self.chance = chance
        self.state: dict[str, Tensor] = {}
        self.lines: list[str] = []
        generator = torch.Generator().manual_seed(chance.randrange(2**31))
        self.generator = generator
        self.values = [torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for rows in BATCHES]

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.state)}"
        self.state[name] = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return f"self.{name}"

    def grow(self, template: str) -> bool:
        """Whether the statement runs for each batch, and leaves something of a size to go on with."""
        example = self.values[-1]
        if not example.dim() or example.dim() > 5:
            return False
        rank, last = example.dim(), example.size(-1)
        before = dict(self.state)
        text = template.replace("\\n", "\n")
        for mark, make in (
            ("{w}", lambda: self.weight(last, last)),
            ("{v}", lambda: self.weight(last)),
            ("{n}", lambda: str(last)),
            ("{a}", lambda: str(self.chance.randrange(rank))),
            ("{b}", lambda: str(self.chance.randrange(rank))),
            ("{z}", lambda: str(self.chance.randrange(-rank, rank))),
            ("{k}", lambda: str(self.chance.randrange(1, 4))),
            ("{more}", lambda: str(rank - 1)),
        ):
            while mark in text:
                text = text.replace(mark, make(), 1)
        names = {
            "torch": torch,
            "F": F,
            "self": SimpleNamespace(**self.state),
            "List": list,
            "Dict": dict,
            "Tensor": Tensor,
        }
        found = []
        try:
            for value in self.values:
                scope: dict[str, Any] = {"x": value.clone()}
                exec(text, names, scope)  # noqa: S102 - of our own templates
                found.append(scope["x"])
        except Exception:
            self.state = before
            return False
        if any(not isinstance(value, Tensor) or not 0 < value.numel() <= 20_000 for value in found):
            self.state = before
            return False
        self.values = found
        self.lines.append(text)
        return True

    def finish(self) -> None:
        """Rows to the front, where there is an axis of them."""
        sizes = list(zip(*(value.shape for value in self.values), strict=False))
        axes = [axis for axis, found in enumerate(sizes) if found == BATCHES]
        if axes and axes[0] != 0 and len({value.dim() for value in self.values}) == 1:
            self.grow(f"x = x.movedim({axes[0]}, 0)")


def module(text: str, state: Mapping[str, Tensor] = {}, arguments: str = "x: Tensor") -> torch.jit.ScriptModule:
    """A scripted module whose `forward` is these statements and returns `x`; F is torch.nn.functional."""
    body = "\n".join("    " + line for line in [*text.splitlines(), "" if "return" in text else "return x"])
    source = f"def forward(self, {arguments}):\n{body}\n"

    class Scripted(torch.jit.ScriptModule):  # a class each: modules of one class would share their code
        def __init__(self) -> None:
            super().__init__()
            for name, value in state.items():
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    self.register_buffer(name, value.clone())
                else:
                    setattr(self, name, value)
            self.define(source)  # type: ignore[no-untyped-call]

    with torchscript():
        return Scripted().eval()


def draw(seed: int) -> tuple[nn.Module, tuple[TensorSpec, ...], str]:
    """A module for FP64 rows, its inputs, and `independent` or `dependent`."""
    chance = random.Random(seed)
    for _ in range(50):
        shape = chance.choice(SHAPES)
        text = Text(shape, chance)
        wanted = chance.randrange(2, 7)
        for _ in range(60):
            if len(text.lines) == wanted:
                break
            text.grow(chance.choice(BLOCKS if chance.random() < 0.12 else STATEMENTS))
        text.finish()
        if len(text.lines) < 2:
            continue
        try:
            made = module("\n".join(text.lines), text.state)
        except RuntimeError:  # TorchScript reads less than Python
            continue
        free = chance.random() < 0.3
        spec = TensorSpec("x", "FP64", (-1, *(-1 if free and axis else size for axis, size in enumerate(shape))))
        return made, (spec,), "dependent" if refuted(made, shape, seed) else "independent"
    raise AssertionError(f"seed {seed} draws nothing that runs")


def refuted(made: Callable[..., Any], shape: Sequence[int], seed: int, trials: int = 12) -> bool:
    """Whether some row of some batch is answered otherwise than alone."""
    generator = torch.Generator().manual_seed(seed)
    for trial in range(trials):
        rows = 1 + trial % 5 + (trial > 9)
        batch = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
        scales = 10.0 ** torch.randint(-2, 3, (rows,), generator=generator).to(torch.float64)
        batch = batch * scales.view(-1, *[1] * len(shape)) + (trial % 3 - 1)
        if differs(made, (batch,)):
            return True
    return False


def differs(made: Callable[..., Any], inputs: Sequence[Any]) -> bool:
    """Each row alone against all of them joined; an error of one and not the other counts."""
    rows = len(inputs[0])
    joined = tried(made, [value[:] for value in inputs])
    alone = [tried(made, [value[row : row + 1] for value in inputs]) for row in range(rows)]
    if joined is None or None in alone:
        return not (joined is None and all(answer is None for answer in alone))
    for place, whole in enumerate(joined):
        for row, answer in enumerate(alone):
            assert answer is not None
            one = answer[place]
            if whole.dim() != one.dim() or not whole.dim() or len(whole) != rows or len(one) != 1:
                return True
            if whole.shape[1:] != one.shape[1:]:
                return True
            allowed = ALLOWED * max(1.0, float(one.double().abs().nan_to_num().max()) if one.numel() else 0.0)
            if not torch.allclose(whole[row].double(), one[0].double(), rtol=0, atol=allowed, equal_nan=True):
                return True
    return False


def tried(made: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor] | None:
    copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = made(*copies)
    except Exception:  # whatever the module raises
        return None
    return [part.clone() for part in flat(found)]


def flat(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if found is None:
        return []
    parts = found.values() if isinstance(found, dict) else found
    return [leaf for part in parts for leaf in flat(part)]
