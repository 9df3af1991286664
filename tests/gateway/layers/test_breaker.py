from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.base import WHOLE
from gateway.errors import CORRUPT, Fault
from gateway.layers.breaker import Breaker, Circuit, Policy
from gateway.layers.signals import Signals

ABSENT = Fault("unreachable", retry_safe=True, counts=True, unreachable=True)
LOST = Fault("lost", retry_safe=True, counts=True)
SHED = Fault("overload", retry_safe=False, counts=False)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker("v", Signals(CollectorRegistry()), Policy(), {"free": None}, lambda model, what: None)


def test_failures_in_a_row_open_and_an_answer_between_them_does_not() -> None:
    circuit = Circuit("m", Policy(failures=3))
    for _ in range(5):
        assert not circuit.failed(0)
        assert not circuit.failed(0)
        for _ in range(5):
            circuit.succeeded()
    assert not circuit.failed(0)
    assert not circuit.failed(0)
    assert circuit.failed(0)
    assert circuit.reason == "failures"


def test_a_batch_that_is_late_is_late_for_each_of_its_callers(breaker: Breaker) -> None:
    breaker.late("m", 1.0, 0.02, now=0.0, callers=4)
    assert breaker.admits("m")
    breaker.late("m", 1.0, 0.02, now=0.0, callers=3)
    assert not breaker.admits("m")


def test_an_endpoint_that_fails_two_of_three_calls_is_out_though_never_five_in_a_row() -> None:
    circuit = Circuit("m", Policy())
    for number in range(200):
        if circuit.open:
            break
        if number % 3:
            circuit.failed(0)
        else:
            circuit.succeeded()
    assert circuit.reason == "rate"


def test_an_open_circuit_is_tried_once_a_second_one_call_at_a_time() -> None:
    circuit = Circuit("m", Policy(failures=1))
    circuit.failed(10.0)
    assert not circuit.due(10.9)
    assert circuit.due(11.0)
    circuit.begin_try(11.0)
    assert not circuit.due(15.0)
    assert not circuit.end_try(False)
    assert circuit.due(15.0)
    circuit.begin_try(15.0)
    assert circuit.end_try(True)
    assert not circuit.open


def test_after_a_try_one_failure_opens_again_and_one_success_makes_it_firm() -> None:
    circuit = Circuit("m", Policy())
    for _ in range(5):
        circuit.failed(0)
    circuit.begin_try(1)
    circuit.end_try(True)
    assert circuit.failed(1)
    circuit.begin_try(2)
    circuit.end_try(True)
    circuit.succeeded()
    assert not circuit.failed(2)


def test_a_try_that_ends_without_news_leaves_things_as_they_are() -> None:
    circuit = Circuit("m", Policy(failures=1))
    circuit.failed(0)
    circuit.begin_try(1)
    assert not circuit.end_try(None)
    assert circuit.open
    assert circuit.due(2)


def test_what_answers_late_and_began_before_does_not_close() -> None:
    circuit = Circuit("m", Policy(failures=1))
    circuit.failed(0)
    circuit.succeeded()
    assert circuit.open


def test_an_absent_endpoint_is_out_for_all_models_at_once(breaker: Breaker) -> None:
    breaker.failed("m", ABSENT, 0)
    assert not breaker.admits("m")
    assert not breaker.admits("n")
    breaker.reached(0.1)
    assert breaker.due("n", 0.1)
    breaker.trying("n", 0.1)
    breaker.tried("n", True, 0.1)
    assert breaker.admits("m")


def test_lost_calls_are_the_endpoints_and_wrong_answers_the_models(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed("m", CORRUPT, 0)
    assert (breaker.admits("m"), breaker.admits("n")) == (False, True)
    for model in ("m", "n", "o", "p", "q"):
        breaker.failed(model, LOST, 0)
    assert not breaker.admits("n")
    assert set(breaker.state()) == {WHOLE, "m"}


def test_overload_is_shed_and_no_failure(breaker: Breaker) -> None:
    for _ in range(50):
        breaker.failed("m", SHED, 0)
    assert breaker.admits("m")


def test_a_model_may_have_no_circuit(breaker: Breaker) -> None:
    for _ in range(50):
        breaker.failed("free", CORRUPT, 0)
    assert breaker.admits("free")


def test_one_that_is_silent_is_doubted_at_once_and_out_where_it_fails_that(breaker: Breaker) -> None:
    breaker.silent("m", 0.2, now=0.0)
    assert not breaker.doubts("m")  # less than is slow at all
    breaker.silent("m", 0.3, now=0.0)
    assert breaker.doubts("m")
    breaker.judged("m", True, now=0.1)
    breaker.silent("m", 0.4, now=0.2)
    assert not breaker.doubts("m")  # it was just cleared
    breaker.silent("m", 0.7, now=0.5)
    breaker.judged("m", False, now=1.0)
    assert breaker.state() == {"m": {"reason": "silent", "trying": False}}
    breaker.silent("free", 9.0, now=1.0)
    assert breaker.admits("free")
