from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest import report, results, sweep
from loadtest.analysis.validity import BlockFacts
from loadtest.blocks import Finished, Leg
from loadtest.fronts import FRONTS, Call
from loadtest.plan import Plan, parse_slo, round_rate
from loadtest.recorder import OK, Block
from loadtest.stack import Address
from loadtest.steadiness import late, unsteady

PLAN = Plan(
    model="convnet",
    version=2,
    fronts=("v2_rest_json",),
    preset="quick",
    pairs=8,
    seconds=10,
    direct_seconds=5,
    warm_seconds=6,
)
LEGS = {"gateway/tensorflow": 5.0, "gateway/pytorch": 6.0, "direct/tensorflow": 3.0, "direct/pytorch": 3.5}


def finished(milliseconds: float, requests: int, seed: int) -> Finished:
    chance = np.random.default_rng(seed)
    intended = np.sort((chance.random(requests) * 1e10).astype(np.int64))
    ended = intended + (chance.gamma(50, milliseconds / 50, requests) * 1e6).astype(np.int64)
    zeros = np.zeros(requests, np.int64)
    block = Block(intended, intended, ended, zeros + OK, zeros + 40, zeros)
    facts = BlockFacts("block", requests, 0, 0, 100, 100, 0.1, milliseconds)
    timing = f"decode;dur=0.1, backend;dur={milliseconds - 1}, encode;dur=0.2, total;dur={milliseconds}"
    return Finished(facts, block, (), (timing,), {}, "as the servers", seed * 10.0)


def blocks(requests: int = 1000) -> dict[tuple[int, str], Finished]:
    return {
        (pair, leg): finished(milliseconds * (1 + 0.01 * pair), requests, seed=4 * pair + number)
        for pair in range(PLAN.pairs)
        for number, (leg, milliseconds) in enumerate(LEGS.items())
    }


def test_a_difference_of_a_fifth_is_found_with_its_interval() -> None:
    verdicts = results.judged({"v2_rest_json": results.ratios(blocks(), PLAN)}, PLAN)
    top = results.headline(verdicts)
    assert top is not None
    assert (top["metric"], top["verdict"]) == ("p50", "slower")
    assert top["interval"][0] < 1.2 < top["interval"][1]
    assert "PyTorch is slower than TensorFlow in p50" in top["sentence"]


def test_a_percentile_without_enough_samples_in_each_block_has_no_ratio() -> None:
    assert set(results.ratios(blocks(1000), PLAN)) == {"p50", "p95", "mean"}
    assert set(results.ratios(blocks(500), PLAN)) == {"p50", "mean"}
    assert set(results.ratios(blocks(10_000), PLAN)) == {"p50", "p95", "p99", "mean"}


def test_the_gateways_overhead_is_a_paired_difference() -> None:
    found = {(one["variant"], one["metric"]): one for one in results.overhead(blocks(), PLAN)}
    assert found["tensorflow", "p50"]["ms"] == pytest.approx(2.07, abs=0.1)
    assert found["pytorch", "p50"]["ms"] == pytest.approx(2.59, abs=0.1)
    low, high = found["tensorflow", "p50"]["interval"]
    assert 1.9 < low < found["tensorflow", "p50"]["ms"] < high < 2.3


def test_the_ledger_is_the_gateways_own_account() -> None:
    assert results.ledger([["decode;dur=1.5, total;dur=4"], ["decode;dur=2.5, total;dur=6"]]) == {
        "decode": 2.0,
        "total": 5.0,
    }


def test_an_unsteady_warm_up_is_settled_by_the_pairs() -> None:
    """Where both legs share what the machine does, nothing is broken; where one gets quicker by itself, V3 is."""
    warm_ups = {"v2_rest_json gateway/pytorch": "windows apart"}
    steady = blocks()
    assert not list(unsteady({"v2_rest_json": steady}, warm_ups, PLAN))
    quicker = {
        (pair, leg): finished(6 * (1 - 0.06 * pair), 1000, pair) if leg == "gateway/pytorch" else one
        for (pair, leg), one in steady.items()
    }
    (broken,) = unsteady({"v2_rest_json": quicker}, {}, PLAN)
    assert (broken.rule, broken.where) == ("V3", "v2_rest_json gateway")
    (left,) = unsteady({"v2_rest_json": steady}, warm_ups, replace(PLAN, pairs=7))
    assert left.text == "windows apart"


def test_one_late_block_is_carried_by_its_leg_and_a_late_generator_is_not() -> None:
    """Three pauses in one block of 250 requests are more than 1 % of it; 1 % of all eight they are not."""

    def lagging(seed: int, requests: int) -> Finished:
        one = finished(5, 250, seed)
        sent = one.block.intended.copy()
        sent[:requests] += 3_000_000
        return replace(one, block=replace(one.block, sent=sent, ended=one.block.ended + sent - one.block.intended))

    assert not list(late({"a leg": [lagging(seed, 3 if seed == 0 else 0) for seed in range(8)]}, 10))
    (broken,) = late({"a leg": [lagging(seed, 3) for seed in range(8)], "another": [lagging(9, 0)]}, 10)
    assert str(broken) == "V1 a leg: 1 % of requests went out 3.00 ms late or more; at most 1.00 ms"


def test_a_run_of_two_fronts_measures_the_servers_directly_once() -> None:
    two = replace(PLAN, fronts=("v2_rest_json", "v2_grpc"))
    assert (PLAN.legs, two.legs) == (4, 6)
    assert two.load_seconds - PLAN.load_seconds == PLAN.pairs * 2 * (PLAN.seconds + PLAN.settle_seconds)


def test_pooled_percentiles_are_told_only_of_enough_samples() -> None:
    told = results.leg_summary([finished(5, 1200, seed) for seed in range(8)], PLAN)["percentiles_ms"]
    assert set(told) == {"p50", "p95"}


def test_a_point_of_a_sweep_is_plain_json() -> None:
    """numpy's own numbers and truth values are none, and would cost the report of a whole run."""
    leg = Leg("gateway/pytorch", "gateway", "pytorch", FRONTS["v2_grpc"], Address("host", 1), (Call("grpc", "", b"1"),))
    point = sweep.point(finished(5, 1000, 0), 4, leg)
    assert json.loads(json.dumps(point)) == point
    assert point["bytes"] == 1
    assert point["little_holds"] in (True, False)


def test_two_runs_agree_or_not() -> None:
    def run(ratio: float, low: float, high: float, verdict: str) -> dict[str, Any]:
        return {"verdicts": [{"metric": "p50", "ratio": ratio, "interval": [low, high], "verdict": verdict}]}

    one = run(1.20, 1.15, 1.25, "slower")
    assert results.agreement(one, run(1.18, 1.14, 1.22, "slower")) == "agrees"
    assert results.agreement(one, run(1.00, 0.98, 1.02, "equivalent")) == "disagrees"
    assert results.agreement(one, run(0.80, 0.50, 0.95, "faster")) == "disagrees"


def result(*, holds: bool = True) -> dict[str, Any]:
    found = blocks()
    verdicts = results.judged({"v2_rest_json": results.ratios(found, PLAN)}, PLAN) if holds else []
    sweep = [
        {"variant": variant, "callers": n, "rows": n, "bytes": 1000 * n, "per_second": 100.0 * n, "little_holds": True}
        for n in (1, 2, 4)
        for variant in ("tensorflow", "pytorch")
    ]
    return {
        "model": "convnet",
        "description": "a <b>model</b>",
        "version": 2,
        "rate": 100.0,
        "begun": 0.0,
        "ended": 600.0,
        "plan": PLAN.as_json(),
        "sentence": verdicts[0]["sentence"] if holds else "INVALID: no verdict. V1 block 1: late",
        "verdicts": verdicts,
        "cells": [results.cell("v2_rest_json", found, PLAN)],
        "search": {
            "v2_rest_json": {
                "slo": [99, 50],
                "found": {"gateway/tensorflow": [500.0], "gateway/pytorch": [400.0]},
                "cost_per_million": {"gateway/tensorflow": 0.5},
            }
        },
        "sweep": {"front": "v2_rest_json", "callers": sweep, "rows": sweep, "bytes": sweep},
        "cold_start": {
            "model": "convnet",
            "restarts": 10,
            "milestones": ["port", "steady"],
            "variants": {
                v: {"port": {"median": 1, "max": 2}, "steady": {"median": 3, "max": 4}}
                for v in ("tensorflow", "pytorch")
            },
        },
        "parity": [{"when": "before", "rows": 256, "of_tolerance": 0.3, "top1": 1.0}],
        "configuration": [
            {"key": "threads", "values": ["1", "2"], "differs": True, "by_nature": False, "reason": "asked <so>"}
        ],
        "validity": {
            "holds": holds,
            "broken": [] if holds else [["V1", "block 1", "late"]],
            "allowed": [["V8", "block 1", "busy"]],
            "reasons": {"V8": "shared machine"},
            "unsteady": ["v2_rest_json gateway/pytorch: windows apart"],
            "repeated": ["V8 block 3: a neighbour"],
            "late": ["V1 block 4: late"],
        },
        "calibration": {
            "machine": "m",
            "at": 0.0,
            "full": False,
            "checks": [["null server", True, "fine"]],
            "figures": {},
        },
        "generator": {"priority": "real time", "workers": 1},
        "command": "python -m loadtest compare convnet",
    }


def test_the_page_needs_nothing_but_itself_and_says_the_answer_first(tmp_path: Path) -> None:
    one = result()
    page = report.write([one], tmp_path).read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert page.index(one["sentence"]) < page.index("<h2>")
    assert "a &lt;b&gt;model&lt;/b&gt;" in page
    assert "<b>model</b>" not in page
    for text in (
        "shared machine",
        "asked &lt;so&gt;",
        "n too small",
        "500",
        "restarts",
        "Little",
        "windows apart",
        "a neighbour",
    ):
        assert text in page
    assert "nan" not in page.lower().replace("finance", "")


def test_an_invalid_run_shows_no_ratio(tmp_path: Path) -> None:
    page = report.write([result(holds=False)], tmp_path).read_text()
    assert "INVALID" in page
    assert "This run is invalid" in page
    assert "<th>ratio</th>" not in page


def test_the_json_beside_it_is_json_without_nan(tmp_path: Path) -> None:
    report.write([result()], tmp_path)
    text = (tmp_path / report.DATA).read_text()
    assert json.loads(text)["results"][0]["model"] == "convnet"
    assert "NaN" not in text


def test_the_page_is_the_same_for_the_same_results() -> None:
    assert report.page.render([result()]) == report.page.render([result()])


def test_rates_are_rounded_to_what_the_next_run_chooses_too() -> None:
    assert [round_rate(rate) for rate in (1.0, 9.9, 149, 151, 356, 980)] == [1, 7, 100, 150, 300, 700]


@pytest.mark.parametrize("text", ["p99", "99=50ms", "p99=50", "p99=0ms", "p100=5ms", "p10=5ms", "p99=fastms"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="p99=50ms"):
        parse_slo(text)


def test_a_plan_with_other_options_is_another_run() -> None:
    assert PLAN.digest == replace(PLAN).digest
    assert PLAN.digest != replace(PLAN, seed=1).digest
