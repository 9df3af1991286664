"""Free dimensions: what `models import` declares of a TorchScript model holds for every later request.

The kind: a size that was the same in every call of the import, and is another in a real request, which the gateway
then takes for a corrupt answer. It comes from the request's other dimensions (a sequence's length), from its values
(how many boxes `nonzero` finds, a loop that ends early), or from both. A size is declared only if it is proven.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.frameworks.pytorch import torchscript
from tests.models.imports import bring, imported


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.reads = nn.LSTM(8, 6, batch_first=True)
        self.tags = nn.Linear(6, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.tags(self.reads(self.words(ids))[0]) * mask.unsqueeze(-1)


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), (x > 0.5).nonzero()


class Chosen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0.5]


class Distinct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.unique(x)


class Best(nn.Module):
    """As many columns as the first value says."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x[0, 0].item())
        return x[:, : max(1, min(count, 3))]


class Stops(nn.Module):
    """Generates until the sum is large enough."""

    def forward(self, x: Tensor) -> Tensor:
        made = [x.sum(1)]
        while bool(made[-1].abs().max() < 10.0) and len(made) < 5:
            made.append(made[-1] * 2 + 1)
        return torch.stack(made, 1)


class AtLeast(nn.Module):
    """Shorter sequences are padded to 600: only a long request shows that the size is not fixed."""

    def forward(self, x: Tensor) -> Tensor:
        missing = max(0, 600 - x.size(1))
        return functional.pad(x, [0, missing])


class Parts(nn.Module):
    """An operation that reads its places by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor_split(x, x[0, :1].clamp(1, 3).long(), dim=1)[0]


class Copied(nn.Module):
    """A selection that is written into another tensor, and a size from there."""

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.zeros_like(x)
        kept[0] = x[0]
        return torch.zeros(int((kept > 0.5).sum()) + 2)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            *(nn.Linear(16, 10), nn.Softmax(-1)),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Sentiment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(1, 2)

    def forward(self, text: list[str]) -> Tensor:
        return torch.sigmoid(self.dense(torch.tensor([[float(len(one))] for one in text])))


def test_a_sequence_of_any_length_is_answered(tmp_path: Path) -> None:
    """Two inputs of one length, by an example of one length; the tags' number is that of a weight."""
    np.savez(tmp_path / "rows.npz", ids=np.ones((1, 7), np.int64), mask=np.ones((1, 7), np.float32))
    model = imported(tmp_path, Tagger(), "--example", str(tmp_path / "rows.npz"))
    assert model.inputs == {"ids": [-1, -1], "mask": [-1, -1]}
    assert model.outputs == {"output": [-1, -1, 4]}
    for rows, length in ((1, 3), (4, 19), (2, 1)):
        asked = {"ids": np.ones((rows, length), np.int64), "mask": np.ones((rows, length), np.float32)}
        assert model.ask(**asked)["output"].shape == (rows, length, 4)


X = np.array([[0.0, 1.0, 0.2, 2.0], [2.0, 0.7, -3.0, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("module", "declared"),
    [
        (Boxes(), {"output_0": [-1, 3], "output_1": [-1, -1]}),
        (Chosen(), {"output": [-1]}),
        (Distinct(), {"output": [-1]}),
        (Best(), {"output": [-1, -1]}),
        (Stops(), {"output": [-1, -1]}),
        (Parts(), {"output": [-1, -1]}),
        (Copied(), {"output": [-1]}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_sizes_that_values_decide_are_free(tmp_path: Path, module: nn.Module, declared: dict[str, list[int]]) -> None:
    """Zeros at import and real values later: other numbers of boxes, elements, columns and turns.

    What does not follow from them, as the scores beside the boxes, stays told.
    """
    model = imported(tmp_path, module, "--input", "x:FP32:-1,4")
    assert model.outputs == declared
    for values in (X, X[:1], np.zeros((3, 4), np.float32), np.full((2, 4), 9.0, np.float32)):
        expected = module(torch.from_numpy(values))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for given, wanted in zip(model.ask(x=values).values(), expected, strict=True):
            np.testing.assert_allclose(given, wanted.detach().numpy(), rtol=1e-5)


def test_a_size_that_only_a_long_request_changes_is_free(tmp_path: Path) -> None:
    model = imported(tmp_path, AtLeast(), "--input", "x:FP32:-1,-1")
    assert model.outputs == {"output": [-1, -1]}
    assert model.ask(x=np.ones((1, 700), np.float32))["output"].shape == (1, 700)


@pytest.mark.parametrize("how", ["scripted", "traced", "quantised"])
def test_the_classes_of_a_classifier_stay_told(tmp_path: Path, how: str) -> None:
    """Height and width are free by the example; sizes at which poolings and strides fail are no obstacle."""
    module: nn.Module = Classifier().eval()
    np.save(tmp_path / "image.npy", np.ones((1, 3, 12, 16), np.float32))
    with torchscript(), warnings.catch_warnings():
        if how == "quantised":
            warnings.simplefilter("ignore")  # PyTorch is about to move it
            module = torch.ao.quantization.quantize_dynamic(module, {nn.Linear})
        if how == "traced":
            module = torch.jit.trace(module, torch.ones(1, 3, 12, 16))
    model = imported(tmp_path, module, "--example", str(tmp_path / "image.npy"))
    assert list(model.inputs.values()) == [[-1, 3, -1, -1]]
    assert list(model.outputs.values()) == [[-1, 10]]


def test_free_image_sizes_are_found_without_an_example(tmp_path: Path) -> None:
    """Of one pixel the convolution makes nothing; a larger blank image is tried."""
    model = imported(tmp_path, Classifier(), "--input", "image:FP32:-1,3,-1,-1")
    assert model.outputs == {"output": [-1, 10]}
    assert model.ask(image=np.ones((2, 3, 40, 24), np.float32))["output"].shape == (2, 10)


def test_the_width_of_a_last_layer_is_known_whatever_texts_come(tmp_path: Path) -> None:
    model = imported(tmp_path, Sentiment(), "--input", "text:BYTES:-1")
    assert model.outputs == {"output": [-1, 2]}
    assert model.ask(text=["a", "some words"])["output"].shape == (2, 2)


class Nodes(nn.Module):
    def forward(self, edges: Tensor, nodes: Tensor) -> Tensor:
        return edges @ nodes


def test_a_first_dimension_that_is_no_batch_is_free_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph's nodes: as many as there are edges in both directions."""
    model = imported(tmp_path, Nodes(), "--input", "edges:FP32:-1,-1", "--input", "nodes:FP32:-1,6")
    assert model.outputs == {"output": [-1, 6]}
    assert "note: the first dimension is no batch: requests are answered one at a time" in capsys.readouterr().out
    asked = {"edges": np.ones((7, 7), np.float32), "nodes": np.ones((7, 6), np.float32)}
    assert model.ask(**asked)["output"].shape == (7, 6)


class Query(nn.Module):
    def forward(self, query: Tensor, candidates: Tensor) -> Tensor:
        return candidates @ query[0]


def test_two_batches_in_one_request_are_of_any_sizes(tmp_path: Path) -> None:
    model = imported(tmp_path, Query(), "--input", "query:FP32:-1,8", "--input", "candidates:FP32:-1,8")
    asked = {"query": np.ones((1, 8), np.float32), "candidates": np.ones((5, 8), np.float32)}
    assert model.ask(**asked)["output"].shape == (5,)


class Total(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(), x * 2


def test_an_output_without_dimensions_is_served(tmp_path: Path) -> None:
    model = imported(tmp_path, Total(), "--input", "x:FP32:-1,-1")
    assert model.outputs == {"output_0": [], "output_1": [-1, -1]}
    assert model.ask(x=X)["output_0"] == pytest.approx(X.sum())


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).squeeze()


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) if bool((x < 0).any()) else x


@pytest.mark.parametrize("module", [Squeeze(), Branch()], ids=["by rows", "by values"])
def test_a_number_of_dimensions_that_changes_is_refused(
    tmp_path: Path, module: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bring(tmp_path, module, "--input", "x:FP32:-1,4") == 1
    assert "output output has " in (complaint := capsys.readouterr().err)
    assert "dimensions" in complaint


def test_a_free_dimension_with_one_size_is_told_to_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    model = imported(tmp_path, Boxes(), "--input", "x:FP32:-1,-1", "--example", str(tmp_path / "x.npy"))
    assert model.outputs == {"output_0": [-1, 3], "output_1": [-1, -1]}
    assert "only size 4 was answered; if it has no other, give --input x:FP32:-1,4" in capsys.readouterr().out


class Rarely(nn.Module):
    """Chooses by values, and for many rows alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 1000:
            return x[0].nonzero()
        return x[:1, :2].long()


def test_a_choice_that_no_call_of_the_import_comes_to_leaves_sizes_free(tmp_path: Path) -> None:
    assert imported(tmp_path, Rarely(), "--input", "x:FP32:-1,4").outputs == {"output": [-1, -1]}


class First(nn.Module):
    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        return x[:, : int(count)]


def test_an_example_without_dimensions_is_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X[:1], count=np.int64(3))
    model = imported(tmp_path, First(), "--example", str(tmp_path / "x.npz"))
    assert (model.inputs, model.outputs) == ({"x": [-1, -1], "count": []}, {"output": [-1, -1]})
    assert model.ask(x=X, count=np.int64(2))["output"].shape == (2, 2)
