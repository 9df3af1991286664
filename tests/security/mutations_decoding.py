"""The controls of decoding large bodies, each switched off."""

from __future__ import annotations

from tests.security.mutation import Mutation

_ASIDE, _CHILD, _TURNS = "gateway/rest/aside.py", "gateway/rest/aside_child.py", "gateway/rest/turns.py"
_TESTS = "../gateway/rest/test_aside.py"

DECODING: tuple[Mutation, ...] = (
    Mutation(
        "long strings of JSON",
        "gateway/codecs/large.py",
        "if size > MAX_TEXT_BYTES:",
        "if False:",
        "../gateway/codecs/test_large.py",
        "python_would_make",
    ),
    Mutation(
        "numbers of examples",
        "gateway/codecs/limits.py",
        "if self._example_values > MAX_EXAMPLE_VALUES:",
        "if False:",
        "../gateway/codecs/test_tfserving_examples.py",
        "numbers_of_examples",
    ),
    Mutation(
        "callers take turns",
        _TURNS,
        "            self._callers[caller] = items\n        return item",
        "            self._callers[caller] = items\n            self._callers.move_to_end(caller, last=False)\n"
        "        return item",
        _TESTS,
        "take_turns",
    ),
    Mutation(
        "a turn is its caller's", _ASIDE, 'access.identity.id if access is not None else ""', '""', _TESTS, "let_in"
    ),
    Mutation(
        "a turn is its address's", "gateway/rest/endpoint.py", 'client[0] if client else ""', '""', _TESTS, "by_address"
    ),
    Mutation("time to decode a body", _CHILD, "signal.ITIMER_PROF, seconds", "signal.ITIMER_PROF, 0", _TESTS, "harm"),
    Mutation("harm is done once", _ASIDE, "if known is not None:", "if False:", "test_decoding.py"),
    Mutation("harm is forgotten", _TURNS, "[0] <= now:", "[0] < 0:", _TESTS, "forgotten"),
    Mutation("not all harm is kept", _TURNS, "len(self._errors) > self._most", "False", _TESTS, "forgotten"),
    Mutation(
        "a process that is gone is replaced", _ASIDE, " or process.returncode is not None", "", _TESTS, "unnoticed"
    ),
    Mutation(
        "large documents are decoded in pieces",
        "gateway/codecs/large.py",
        "if len(document) < MIN_BYTES:",
        "if True:",
        "../gateway/codecs/test_large.py",
        "times_its_size",
    ),
    Mutation(
        "a caller's share of bodies",
        "gateway/config.py",
        "    caller: Annotated[float, Field(gt=0, le=1)] = 0.25",
        "    caller: Annotated[float, Field(gt=0, le=1)] = 0.5",
        "../gateway/rest/test_room.py",
        "by_default",
    ),
)
