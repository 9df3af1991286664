"""Every failure of the tree survives being copied and pickled: layers give each caller one of its own."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gateway
from gateway.errors import CORRUPT, DuetError, MeantFor


def every_kind() -> Iterator[type[DuetError]]:
    """All subclasses in the gateway, wherever they are defined."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[DuetError]) -> Iterator[type[DuetError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    yield from dict.fromkeys(below(DuetError))


def made(kind: type[DuetError]) -> DuetError:
    """With whatever arguments the class takes."""
    code = kind.__init__.__code__
    names = code.co_varnames[1 : code.co_argcount]
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    values: dict[str, Any] = {"known": ["a", "b"], "retry_after_seconds": 2.0, "version": 3}
    error = kind(
        *(values.get(name, name) for name in names),
        **{name: values.get(name, name) for name in keywords},
    )
    error.target, error.fault, error.endpoint = MeantFor("m", "v", 1), CORRUPT, "127.0.0.1:1"
    return error


def pickled(error: DuetError) -> DuetError:
    again: DuetError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    return again


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", list(every_kind()), ids=lambda kind: kind.__name__)
def test_a_failure_is_copied_with_all_that_it_holds(
    kind: type[DuetError], again: Callable[[DuetError], DuetError]
) -> None:
    """The kind: a subclass takes other arguments than the message, or holds more than the tree's own members."""
    error = made(kind)
    other = again(error)
    assert type(other) is kind
    assert other is not error
    assert (str(other), other.args) == (str(error), error.args)
    assert vars(other) == vars(error)
    other.target = None
    assert error.target is not None


def test_there_are_subclasses_with_arguments_of_their_own() -> None:
    assert {"Refused", "UnknownModel", "OpaqueModel", "QuotaExceeded"} <= {kind.__name__ for kind in every_kind()}
