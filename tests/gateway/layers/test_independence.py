from __future__ import annotations

from itertools import product

import pytest

from gateway.layers.independence import Independence, Operator, known
from gateway.types import Rows, ServerBatching, Signature, TensorSpec

INDEPENDENT, DEPENDENT, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
SPEC = (TensorSpec("x", "FP32", (-1, 1)),)
SERVER = ServerBatching("the server batches", 8)
ALL = list(product((INDEPENDENT, DEPENDENT, UNKNOWN), (INDEPENDENT, DEPENDENT, None), (SERVER, None)))


def of(artifact: Rows, said: Rows | None, server: ServerBatching | None) -> Independence:
    return known("m", Signature(SPEC, SPEC, rows=artifact), server, Operator(said, "batching.rows"))


@pytest.mark.parametrize(("artifact", "said", "server"), ALL)
def test_dependent_wins_and_otherwise_one_word_is_enough(
    artifact: Rows, said: Rows | None, server: ServerBatching | None
) -> None:
    found = of(artifact, said, server).rows
    if DEPENDENT in (artifact, said):
        assert found is DEPENDENT
    elif INDEPENDENT in (artifact, said) or server is not None:
        assert found is INDEPENDENT
    else:
        assert found is UNKNOWN


@pytest.mark.parametrize(("artifact", "said", "server"), [each for each in ALL if each[2] is not None])
def test_the_servers_bound_holds_whoever_says_that_rows_are_independent(
    artifact: Rows, said: Rows | None, server: ServerBatching
) -> None:
    assert of(artifact, said, server).max_rows == 8


def test_it_says_who_says_so() -> None:
    assert of(INDEPENDENT, None, None).why == "its artifact says so"
    assert of(UNKNOWN, INDEPENDENT, None).why == "the setting batching.rows says so"
    assert of(UNKNOWN, None, SERVER).why == "the server batches"
    assert of(INDEPENDENT, DEPENDENT, None).why == "the setting batching.rows says so"


def test_what_is_unknown_names_the_setting() -> None:
    assert "set models.m.batching.rows: independent" in of(UNKNOWN, None, None).why
