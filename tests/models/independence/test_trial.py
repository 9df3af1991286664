"""The trial that can only refute: what it must see, and what it must not take for a dependence.

The kind of the first: any model whose answer to a row changes with the rows beside it, by however little and for
whichever rows. Of the second: any model that answers row by row, as badly conditioned as people's models are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.importing import examples
from models.importing.candidate import Answer
from models.importing.independence.rows import rows
from models.importing.independence.trial import refute
from models.spec import Array, TensorSpec

X = (TensorSpec("x", "FP32", (-1, 16)),)
WHOLE = (TensorSpec("n", "INT64", (-1, 6)),)
TEXT = (TensorSpec("text", "BYTES", (-1,)),)
SERIES = (TensorSpec("series", "FP32", (-1, -1)),)
QUERY = (TensorSpec("query", "FP32", (-1, 8)), TensorSpec("candidates", "FP32", (-1, 8)))
IMAGE = (TensorSpec("image", "FP32", (-1, 3, 12, 12)),)

torch.set_num_threads(1)
torch.manual_seed(0)
DENSE, NARROW, CLASSES = nn.Linear(16, 16).eval(), nn.Linear(16, 1).eval(), nn.Linear(16, 10).eval()
CONVOLUTION, NORMAL = nn.Conv2d(3, 8, 3).eval(), nn.BatchNorm1d(16).eval()
EMBEDDING, RECURRENT = nn.Embedding(40, 4).eval(), nn.LSTM(1, 8, batch_first=True).eval()
WEIGHT = torch.randn(16, 16) * 4
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    DYNAMIC = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(16, 16)).eval())


def asked(forward: Callable[..., object], inputs: tuple[TensorSpec, ...], example: object = None) -> str | None:
    """What the trial says of a model."""

    def predict(arrays: tuple[Array, ...]) -> Sequence[Answer]:
        given = (torch.from_numpy(one) if one.dtype != object else [text.decode() for text in one] for one in arrays)
        with torch.inference_mode():
            results = forward(*given)
        return [answer(one) for one in (results if isinstance(results, tuple) else (results,))]

    given = {} if example is None else {inputs[0].name: np.array(example)}
    one = examples.rows(inputs, given, "example")
    found = refute(predict, inputs, [f"y{place}" for place in range(len(predict(one)))], one)
    return None if found is None else found.sentence


def answer(result: object) -> Answer:
    if not isinstance(result, Tensor):
        return Answer("BYTES", np.array(result, object))
    datatype = {torch.bfloat16: "BF16", torch.float16: "FP16"}.get(result.dtype, "any other")
    return Answer(datatype, (result.float() if datatype == "BF16" else result).numpy())


def deep(x: Tensor) -> Tensor:
    """Each layer magnifies what rounding has changed by about four."""
    for _ in range(6):
        x = torch.tanh(x @ WEIGHT)
    return x


def half(x: Tensor, kind: torch.dtype) -> Tensor:
    return functional.relu(x.to(kind) @ DENSE.weight.to(kind)) @ DENSE.weight.to(kind)


def looked_up(n: Tensor) -> Tensor:
    return EMBEDDING(n).mean(1)


def lengths(text: list[str]) -> Tensor:
    return torch.tensor([[len(one.encode()), one.count(" ")] for one in text])


def longest(text: list[str]) -> Tensor:
    most = max(map(len, text))
    return torch.tensor([len(one) / max(most, 1) for one in text])


HONEST = {
    "linear": (DENSE, X),
    "one number out": (NARROW, X),
    "softmax of steep logits": (lambda x: torch.softmax(CLASSES(x) * 50, 1), X),
    "the greatest class": (lambda x: CLASSES(x).argmax(1), X),
    "sorted, with places": (lambda x: tuple(DENSE(x).sort(1)), X),
    "the best three": (lambda x: tuple(CLASSES(x).topk(3, 1)), X),
    "rounded": (lambda x: torch.round(DENSE(x) * 3).to(torch.int32), X),
    "sine of large values": (lambda x: torch.sin(DENSE(x) * 1e3), X),
    "deep and steep": (deep, X),
    "difference of near equals": (lambda x: (DENSE(x) + 1e4) - 1e4, X),
    "quotient of small numbers": (lambda x: DENSE(x)[:, :8] / (DENSE(x)[:, 8:] - DENSE(x).mean(1, keepdim=True)), X),
    "layer norm": (lambda x: functional.layer_norm(DENSE(x), (16,), eps=0.0), X),
    "batch norm in inference": (NORMAL, X),
    "exponential": (lambda x: torch.exp(DENSE(x)), X),
    "logarithm": (lambda x: torch.log(x), X),
    "bfloat16 within": (lambda x: half(x, torch.bfloat16).float(), X),
    "bfloat16 out": (lambda x: half(x, torch.bfloat16), X),
    "float16 out": (lambda x: half(x, torch.float16), X),
    "float64": (lambda x: x.double() @ WEIGHT.double(), X),
    "fixed scale int8": (lambda x: DENSE(torch.clamp(torch.round(x / 0.05), -128, 127) * 0.05), X),
    "cumulative along the row": (lambda x: x.cumsum(1), X),
    "convolution": (lambda x: functional.relu(CONVOLUTION(x)).amax((2, 3)), IMAGE),
    "recurrent": (lambda x: RECURRENT(x.unsqueeze(2))[0], SERIES),
    "embedding": (looked_up, WHOLE),
    "lengths of texts": (lengths, TEXT),
    "pairs": (lambda q, c: (q * c).sum(1), QUERY),
    "constant": (lambda x: torch.ones(len(x), 2), X),
}
DEPENDENT = {
    "one scale for all, int8": (DYNAMIC, X),
    "less the mean": (lambda x: x - x.mean(0), X),
    "less the mean, hardly": (lambda x: x - 1e-4 * x.mean(0), X),
    "normalised by the batch": (lambda x: (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt(), X),
    "softmax over rows": (lambda x: torch.softmax(x, 0), X),
    "divided by the greatest": (lambda x: x / x.abs().max().clamp_min(1e-9), X),
    "layer norm over all": (lambda x: (x - x.mean()) / (x.std() + 1e-5), X),
    "cumulative": (lambda x: x.cumsum(0), X),
    "turned around": (lambda x: x.flip(0), X),
    "rolled": (lambda x: x.roll(1, 0), X),
    "sorted": (lambda x: x.sort(0)[0], X),
    "the first row is added": (lambda x: x + x[:1], X),
    "the last row is added": (lambda x: x + x[-1:], X),
    "the number of rows": (lambda x: x + len(x) - 1, X),
    "from three rows on": (lambda x: x if len(x) < 4 else x + x.mean(0), X),
    "attention between rows": (lambda x: torch.softmax(x @ x.T, 1) @ x, X),
    "each against all": (lambda x: x @ x.T, X),
    "repeats are marked": (lambda x: (x.unsqueeze(1) == x.unsqueeze(0)).all(2).sum(1), X),
    "a mask by the largest row": (lambda x: x * (x.norm(dim=1, keepdim=True) >= 0.9 * x.norm(dim=1).max()), X),
    "the best row of all": (lambda x: torch.zeros(len(x)).scatter(0, x.sum(1).argmax(0, keepdim=True), 1.0), X),
    "one image's brightness": (lambda x: x / (1 + x.amax()), IMAGE),
    "by chance": (lambda x: functional.dropout(x + 1, 0.5), X),
    "rows that are left out": (lambda x: x[x[:, 0] > -1e-3], X),
    "row by row no more": (lambda x: x.reshape(-1, 8), X),
    "two rows at most": (lambda x: x if len(x) < 3 else x.view(2, -1, 9), X),
    "less the least": (lambda n: n - n.min(0)[0], WHOLE),
    "the longest text": (longest, TEXT),
    "sorted texts": (lambda text: sorted(text), TEXT),
    "query against candidates": (lambda q, c: q @ c.T, QUERY),
    "candidates' mean": (lambda q, c: q - c.mean(0), QUERY),
    "the series' mean over rows": (lambda x: x - x.mean(0), SERIES),
}


@pytest.mark.parametrize("name", HONEST)
def test_rounding_is_not_taken_for_a_dependence(name: str) -> None:
    assert asked(*HONEST[name]) is None


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_dependence_is_seen_with_no_example(name: str) -> None:
    assert asked(*DEPENDENT[name]) is not None


def test_the_sentence_names_output_rows_and_values() -> None:
    sentence = asked(lambda x: x - x.mean(0), (TensorSpec("x", "FP32", (-1, 1)),), [[2.0]])
    assert sentence is not None
    assert sentence.startswith("output y0 of a row with values up to 2 is [0] alone and [")
    assert " as row 1 of 20, beside values up to " in sentence


def test_a_row_that_fails_alone_proves_nothing() -> None:
    """An index that the embedding does not have; a text that is no number."""
    assert asked(looked_up, WHOLE, [[39] * 6]) is None
    assert asked(lambda text: torch.tensor([[float(one)] for one in text]), TEXT, [b"1.5"]) is None


def test_rows_that_fail_together_refute() -> None:
    def only_alike(x: Tensor) -> Tensor:
        if len(x) > 1 and bool((x != x[0]).any()):
            raise RuntimeError("rows must be alike")
        return x

    sentence = asked(only_alike, X)
    assert sentence is not None
    assert "rows that are answered alone fail as a batch of" in sentence
    assert "rows must be alike" in sentence


def test_a_model_that_takes_the_example_alone_is_asked_about_nothing_else() -> None:
    def of_ones(x: Tensor) -> Tensor:
        if bool((x != 1).any()):
            raise RuntimeError("ones, please")
        return x - x.mean(0)

    assert asked(of_ones, X, np.ones((1, 16), np.float32)) is None


KINDS = [datatype for datatype in examples.NUMPY_TYPES if datatype != "BF16"]


@pytest.mark.parametrize("shape", [(-1,), (-1, 3), (-1, -1, 2), (-1, 0), (-1, 1, 2, 1, 2)], ids=str)
@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_and_rank_is_tried(datatype: str, shape: tuple[int, ...]) -> None:
    """In numpy's own arrays, as PyTorch lacks operations on some of them. Without values there is nothing to see."""
    specs = (TensorSpec("x", datatype, shape),)
    one = examples.rows(specs, {}, "example")

    def said(forward: Callable[[Array], Array]) -> object:
        return refute(lambda arrays: [Answer(datatype, forward(arrays[0]))], specs, ["y"], one)

    assert said(lambda x: x) is None
    assert (said(lambda x: x[::-1]) is None) is (0 in shape)


@pytest.mark.parametrize("datatype", KINDS)
def test_the_rows_of_a_trial_differ_and_keep_their_form(datatype: str) -> None:
    """Also where the example is at the edge of its datatype."""
    kind = examples.NUMPY_TYPES[datatype]
    edge = np.array([[b"edge"] * 3], object) if datatype == "BYTES" else np.full((1, 3), limits(kind).max, kind)
    drawn = list(rows((TensorSpec("x", datatype, (-1, 3)),), (edge,), np.random.default_rng(0)))
    assert {(array.shape, array.dtype) for (array,) in drawn} == {((1, 3), np.dtype(kind))}
    assert len({array.tobytes() if array.dtype != object else str(array) for (array,) in drawn}) >= 4


def limits(kind: type) -> Any:
    if kind is np.bool_:
        return np.iinfo(np.int8)
    return np.finfo(kind) if np.dtype(kind).kind == "f" else np.iinfo(kind)
