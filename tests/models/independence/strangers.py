"""Small nets of the kinds that people import, each of which answers a row by that row alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.spec import TensorSpec

IMAGES = (TensorSpec("image", "FP32", (-1, 3, 16, 16)),)
FREE_IMAGES = (TensorSpec("image", "FP32", (-1, 3, -1, -1)),)
SEQUENCES = (TensorSpec("x", "FP32", (-1, -1, 8)),)
FIXED_SEQUENCES = (TensorSpec("x", "FP32", (-1, 5, 8)),)
TOKENS = (TensorSpec("token", "INT64", (-1, -1)),)
VECTORS = (TensorSpec("x", "FP32", (-1, 16)),)


def block(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Residual(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(into, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2))
        self.average = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.average(self.layers(self.pool(self.stem(x))))
        return self.fc(torch.flatten(x, 1))


class Inverted(nn.Module):
    """MobileNet: depthwise convolutions, squeeze and excitation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.BatchNorm2d(12), nn.Hardswish(True))
        self.squeeze = nn.Linear(12, 4)
        self.excite = nn.Linear(4, 12)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(functional.relu6(self.expand(x)))
        scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean([2, 3])))))
        x = x * scale[:, :, None, None]
        batch, channels, height, width = x.size()
        x = x.view(batch, 3, channels // 3, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.head(self.drop(x).mean((-2, -1)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = block(3, 4), block(4, 8), block(16, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.out = nn.Conv2d(8, 2, 1)
        self.join = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(functional.max_pool2d(a, 2))
        c = functional.interpolate(functional.avg_pool2d(b, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
        b = self.third(torch.cat([b, c], 1))
        up = self.up(b)
        difference = [a.size(2) - up.size(2), a.size(3) - up.size(3)]
        up = functional.pad(up, [0, difference[1], 0, difference[0]])
        return self.out(self.join(torch.cat([a, up], dim=1)))


class UNetToSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = functional.interpolate(self.second(a), size=a.shape[-2:], mode="nearest")
        return (a + b).flatten(2).permute(0, 2, 1).softmax(-1)


class Classifier(nn.Module):
    """As in BERT: embeddings of tokens and places, a mask, blocks, the first token's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(50, 8), nn.Embedding(32, 8)
        self.register_buffer("places", torch.arange(32).expand(1, -1))
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, token: Tensor, mask: Tensor) -> Tensor:
        batch, length = token.shape
        x = self.norm(self.token(token) + self.place(self.places[:, :length]))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        q = self.q(x).view(batch, length, 2, 4).transpose(1, 2)
        k = self.k(x).view(batch, length, 2, 4).transpose(1, 2)
        v = self.v(x).view(batch, length, 2, 4).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(4) + bias
        mixed = torch.matmul(functional.softmax(scores, dim=-1), v).transpose(1, 2).contiguous()
        x = self.norm(x + self.o(mixed.view(batch, length, 8)))
        return torch.tanh(self.head(x[:, 0]))


class Decoder(nn.Module):
    """As in GPT: a causal mask, places counted from the length, all logits."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(50, 8), nn.Embedding(32, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("causal", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))

    def forward(self, token: Tensor) -> Tensor:
        b, t = token.size()
        x = self.token(token) + self.place(torch.arange(0, t, dtype=torch.long, device=token.device))
        q, k, v = self.qkv(self.norm(x)).split(8, dim=2)
        k = k.view(b, t, 2, 4).transpose(1, 2)
        q = q.view(b, t, 2, 4).transpose(1, 2)
        v = v.view(b, t, 2, 4).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * 0.5
        att = att.masked_fill(self.causal[:, :, :t, :t] == 0, float("-inf"))
        y = (torch.softmax(att, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, 8)
        return (x + self.out(y)) @ self.token.weight.t()


class Flash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.batch_first:
            return self.attention(x, x, x)
        y = x.transpose(0, 1)
        out, weights = self.attention(y, y, y)
        return out.transpose(0, 1), weights


class Padded(nn.Module):
    """Attention with a mask of each row's own padding."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]


class Patches(nn.Module):
    """As in ViT: patches, a token of the class for each row, places."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 17, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.place
        return self.head(self.encoder(x)[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        self.layer = make(8, 6, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.layer(x)
        return self.head(out[:, -1, :])


class Turned(nn.Module):
    """An LSTM that wants time first, given it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, _) = self.layer(x.permute(1, 0, 2))
        return torch.cat([out[-1], hidden.squeeze(0)], dim=-1)


class Cells(nn.Module):
    """A recurrence written out: a loop over a free length, results in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 6)
        self.linear = nn.Linear(14, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros(x.size(0), 6)
        steps: list[Tensor] = []
        for place in range(x.size(1)):
            hidden = torch.tanh(self.linear(torch.cat([x[:, place], hidden], 1)))
            steps.append(hidden)
        return torch.stack(steps, dim=1), hidden


class Named(NamedTuple):
    logits: Tensor
    score: Tensor


class NamedOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Named:
        logits = self.linear(x)
        return Named(logits, logits.max(dim=-1).values)


class DictOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.linear(x)
        found: dict[str, Tensor] = {"logits": logits}
        found["class"] = logits.argmax(1)
        found["order"] = torch.topk(logits, 2, dim=1)[1]
        return found


class DictInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        return self.linear(given["x"]) + given["y"], None


class ListInputs(nn.Module):
    def forward(self, given: list[Tensor]) -> Tensor:
        return torch.cat(given, dim=1)


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor, bias: Tensor | None = None, scale: float = 2.0) -> Tensor:
        y = self.linear(x) * scale
        if bias is not None:
            y = y + bias
        return y


class Preallocated(nn.Module):
    """Written in place, column by column."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.size(0), 3)
        out[:, 0] = x.sum(1)
        out[:, 1:] = x[:, :2]
        out.mul_(2).add_(x[:, 3:6])
        out[:, 2].clamp_(min=0)
        return out


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group, self.instance = nn.GroupNorm(3, 3), nn.InstanceNorm2d(3, affine=True)
        self.local, self.batch = nn.LocalResponseNorm(2), nn.BatchNorm2d(3)
        self.layer, self.prelu = nn.LayerNorm([3, 16, 16]), nn.PReLU(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch(self.local(self.instance(self.group(x))))
        x = self.prelu(self.layer(x))
        return functional.normalize(x.reshape(x.shape[0], -1), dim=1)


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3)
        return self.shuffle(self.conv(x)).clamp(0, 1).permute(0, 2, 3, 1)


class Shapes(nn.Module):
    """Axes that move, fold and come back."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        y = x.reshape(b * t, d)
        y = torch.softmax(y, 1).view(-1, t, d)
        y = y.transpose(0, 1).reshape(t, b * d).view(t, b, d).permute(1, 0, 2)
        y = y.unsqueeze(1).expand(-1, 2, -1, -1).flatten(0, 1)
        y = y.view(b, 2, t, d).sum(1)
        z = y.repeat_interleave(2, dim=0).view(b, 2, t * d)[:, 1]
        return torch.einsum("bi,bi->bi", z, z).unsqueeze(0).squeeze(0)


class Mixture(nn.Module):
    """Experts that are chosen by weights, gather, one-hot, where."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.softmax(self.gate(x), dim=1)
        every = torch.stack([expert(x) for expert in self.experts], dim=1)
        best = gates.argmax(dim=1, keepdim=True)
        chosen = every.gather(1, best.unsqueeze(-1).expand(-1, -1, 5)).squeeze(1)
        hot = functional.one_hot(best.squeeze(1), 4).to(x.dtype)
        mean = torch.bmm(gates.unsqueeze(1), every).squeeze(1)
        return torch.where(chosen > 0, chosen, mean) + (hot * gates).sum(1, keepdim=True)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(8, 4, 3, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(12, 6), nn.Tanh())
        self.up = nn.Sequential(
            nn.Linear(6, 12), nn.Unflatten(1, (4, 3)), nn.ConvTranspose1d(4, 8, 3, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x.transpose(1, 2))).mT


TWO = (TensorSpec("token", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1)))
MASKED = (TensorSpec("x", "FP32", (-1, 5, 8)), TensorSpec("mask", "BOOL", (-1, 5)))
PAIR = (TensorSpec("x", "FP32", (-1, 16)), TensorSpec("y", "FP32", (-1, 3)))
STRANGERS: dict[str, tuple[nn.Module, tuple[TensorSpec, ...]]] = {
    "resnet": (ResNet(), IMAGES),
    "resnet of any size": (ResNet(), FREE_IMAGES),
    "mobilenet": (Inverted(), IMAGES),
    "unet": (UNet(), IMAGES),
    "unet of any size": (UNet(), FREE_IMAGES),
    "unet to size": (UNetToSize(), FREE_IMAGES),
    "bert": (Classifier(), TWO),
    "gpt": (Decoder(), TOKENS),
    "flash": (Flash(), SEQUENCES),
    "attention": (Attention(batch_first=True), SEQUENCES),
    "attention, time first": (Attention(batch_first=False), SEQUENCES),
    "padded attention": (Padded(), MASKED),
    "vit": (Patches(), IMAGES),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), SEQUENCES),
    "lstm": (Recurrent("lstm"), SEQUENCES),
    "gru": (Recurrent("gru"), FIXED_SEQUENCES),
    "rnn": (Recurrent("rnn"), SEQUENCES),
    "lstm, time first": (Turned(), SEQUENCES),
    "cells": (Cells(), SEQUENCES),
    "named outputs": (NamedOutputs(), VECTORS),
    "dict outputs": (DictOutputs(), VECTORS),
    "dict inputs": (DictInputs(), PAIR),
    "list inputs": (ListInputs(), PAIR),
    "optional": (Optional(), VECTORS),
    "preallocated": (Preallocated(), VECTORS),
    "normalised": (Normalised(), IMAGES),
    "pixels": (Pixels(), IMAGES),
    "shapes": (Shapes(), FIXED_SEQUENCES),
    "shapes of any length": (Shapes(), SEQUENCES),
    "mixture": (Mixture(), VECTORS),
    "autoencoder": (Autoencoder(), FIXED_SEQUENCES),
}
for _module, _ in STRANGERS.values():
    _module.eval()
