"""Settings become layers: a model's own replace single fields, whoever is asked."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.config import Settings
from gateway.layering import Layering
from gateway.layers.batching import Batching
from gateway.layers.limit import Limit
from gateway.layers.retry import Retry
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.types import Rows
from tests.fakes.doubling import Doubling

SERVERS = {name: {"kind": "tfserving", "endpoint": "127.0.0.1:1"} for name in ("tensorflow", "other")}


def layering(**settings: Any) -> tuple[Layering, Registry]:
    layers = Layering(Settings.model_validate({"servers": SERVERS, **settings}), Metrics(CollectorRegistry()))
    return layers, Registry(servers={}, variants={})


def batching(variant: str = "tensorflow", **settings: Any) -> Batching:
    layers, registry = layering(**settings)
    found = layers.batched(Doubling(), variant, registry, again=Doubling())
    assert isinstance(found, Batching)
    return found


def test_a_models_own_fields_leave_the_others_as_they_are_for_all() -> None:
    """The kind: settings that a model may have of its own, of which it gives some."""
    found = batching(
        batching={"max_rows": 7, "max_bytes": 9, "in_flight": 3, "sample_share": 0.5},
        models={"a": {"batching": {"rows": "independent"}}, "b": {"batching": {"max_rows": 2}}},
    )
    a, b = found._models["a"], found._models["b"]
    assert a is not None
    assert b is not None
    assert (a.limits.max_rows, a.limits.max_bytes, a.in_flight, a.sample_share) == (7, 9, 3, 0.5)
    assert (b.limits.max_rows, b.limits.max_bytes, b.in_flight, b.sample_share) == (2, 9, 3, 0.5)


def test_so_it_is_with_retries_and_limits() -> None:
    layers, registry = layering(
        retry={"per_second": 1, "wait_seconds": 2},
        limit={"queue": 3},
        models={"a": {"retry": {"share": 0.5}, "limit": {"most": 9}}},
    )
    retry = layers.retried(Doubling(), "tensorflow")
    limit = layers.limited(Doubling(), "tensorflow", registry)
    assert isinstance(retry, Retry)
    assert isinstance(limit, Limit)
    again, bounds = retry._models["a"], limit._models["a"]
    assert again is not None
    assert bounds is not None
    assert (again.share, again.per_second, again.wait_seconds) == (0.5, 1, 2)
    assert (bounds.most, bounds.waits.most) == (9, 3)


def test_off_for_all_stays_off_for_a_model_that_says_nothing_of_it() -> None:
    found = {
        name: batching(batching={"enabled": False}, models={"on": {"batching": {"enabled": True}}, "a": own})._models[
            "a"
        ]
        for name, own in {"unset": {"batching": {"max_rows": 2}}, "on": {"batching": {"enabled": True}}}.items()
    }
    assert found["unset"] is None
    assert found["on"] is not None


@pytest.mark.parametrize(
    ("every", "own", "variant", "said", "setting"),
    [
        (None, None, "tensorflow", None, "batching.rows"),
        ("independent", None, "tensorflow", Rows.INDEPENDENT, "batching.rows"),
        ("independent", "dependent", "tensorflow", Rows.DEPENDENT, "models.m.batching.rows"),
        ("dependent", "independent", "tensorflow", Rows.INDEPENDENT, "models.m.batching.rows"),
        (None, {"tensorflow": "independent"}, "tensorflow", Rows.INDEPENDENT, "models.m.batching.rows"),
        (None, {"tensorflow": "independent"}, "other", None, "batching.rows"),
        ("dependent", {"tensorflow": "independent"}, "other", Rows.DEPENDENT, "batching.rows"),
        ({"other": "dependent"}, "independent", "other", Rows.INDEPENDENT, "models.m.batching.rows"),
        ({"other": "dependent"}, None, "tensorflow", None, "batching.rows"),
    ],
)
def test_the_word_about_one_model_goes_before_the_word_about_all(
    every: Any, own: Any, variant: str, said: Rows | None, setting: str
) -> None:
    found = batching(variant, batching={"rows": every}, models={"m": {"batching": {"rows": own}}})._models["m"]
    assert found is not None
    assert (found.operator.said, found.operator.setting) == (said, setting)
