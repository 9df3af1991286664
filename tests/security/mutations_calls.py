"""The controls of what gRPC's callers hold: places, messages on their way in, open streams."""

from __future__ import annotations

from tests.security.mutation import Mutation

_CALLS = "gateway/grpc/calls.py"
_RECEIVING = "gateway/grpc/receiving.py"
_SHARES = "gateway/security/shares.py"
_TESTS = "test_calls.py"
_LETTING_IN = "../gateway/grpc/test_letting_in.py"

CALLS = (
    Mutation("watches are counted", _CALLS, "_Place(self._watches, caller_of(context))", "pass", _TESTS, "watches"),
    Mutation(
        "a caller's share of the calls",
        _SHARES,
        "if count >= self.each:",
        "if False:",
        _TESTS,
        "idle_streams",
    ),
    Mutation(
        "a place is its caller's",
        _CALLS,
        "place.move(access.identity.id)",
        "pass",
        _TESTS,
        "idle_streams",
    ),
    Mutation(
        "idle streams end",
        _CALLS,
        "if not flying.count:",
        "if False:",
        _LETTING_IN,
        "a_stream_ends",
    ),
    Mutation(
        "who sends each message of a stream",
        _CALLS,
        "return call, await self._identified(call, shown)",
        "asked.kept = getattr(asked, 'kept', 0) or await self._identified(call, shown); return call, asked.kept",
        _TESTS,
        "ends_with_its_key",
    ),
    Mutation(
        "empty messages are not read",
        _CALLS,
        'b"" if empty else await',
        "await",
        _TESTS,
        "half_messages and ServerLive",
    ),
    Mutation(
        "messages that are read at a time",
        _RECEIVING,
        "if self.reading < self._at_once and own.reading < self._each:",
        "if True:",
        _TESTS,
        "half_messages",
    ),
    Mutation(
        "unread calls are held still",
        "gateway/grpc/server.py",
        "{method: _early(handler) for",
        "{method: handler for",
        _TESTS,
        "half_messages",
    ),
    Mutation(
        "quotas come before the message",
        _CALLS,
        "self._admission.enter(call.seen, access)\n        try:",
        "try:",
        _TESTS,
        "a_quota",
    ),
    Mutation(
        "late messages are given up",
        _RECEIVING,
        "self._end(message, DeadlineExceeded(",
        "print(message, DeadlineExceeded(",
        _LETTING_IN,
        "does_not_come",
    ),
)
