"""The real handler: requests with two numbers of rows in each, which TorchServe has gathered into one batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.serving.tensors import request, spec, tensor
from tests.serving.test_handler import ask, handler_of, outputs


class Scores(nn.Module):
    def forward(self, query: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return (query * candidates).sum(1, keepdim=True)


@pytest.mark.parametrize("sizes", [[(1, 5)], [(1, 5), (1, 3)], [(1, 2), (2, 2), (2, 2), (4, 1)]], ids=str)
def test_one_query_against_any_number_of_candidates(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """Each is answered by itself, whatever it was gathered with."""
    inputs = [spec("query", "FP32", -1, 8), spec("candidates", "FP32", -1, 8)]
    handler = handler_of(tmp_path, Scores(), inputs, [spec("y", "FP32", -1, 1)])
    rng = np.random.default_rng(1)
    pairs = [[rng.standard_normal((rows, 8)).astype(np.float32) for rows in of] for of in sizes]
    raw, made = ask(handler, *(request(tensor("query", q), tensor("candidates", c)) for q, c in pairs))
    for index, (query, candidates) in enumerate(pairs):
        expected = (query * candidates).sum(axis=1, keepdims=True)
        assert np.allclose(outputs(raw, made, index)["y"], expected, rtol=1e-5, atol=1e-5)
