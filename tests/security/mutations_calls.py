"""The controls of what gRPC's callers hold: places, messages on their way in, open streams."""

from __future__ import annotations

from tests.security.mutation import Mutation

_CALLS = "gateway/grpc/calls.py"
_ARRIVING = "gateway/grpc/arriving.py"
_COMING = "../gateway/grpc/test_arriving.py"
_PROXIES = "gateway/security/proxies.py"
_PROXIES_TESTS = "test_proxies.py"
_RECEIVING = "gateway/grpc/receiving.py"
_SHARES = "gateway/security/shares.py"
_TESTS = "test_calls.py"
_LETTING_IN = "../gateway/grpc/test_letting_in.py"

CALLS = (
    Mutation(
        "watches are counted",
        _CALLS,
        "_Place(self._watches, self._arriving.caller(line, context))",
        "pass",
        _TESTS,
        "watches",
    ),
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
    Mutation(
        "what a caller's streams hold of messages that are not whole",
        _ARRIVING,
        "_split(all_of_one, most_of_one)",
        "([], list(all_of_one))",
        _COMING,
        "share",
    ),
    Mutation(
        "what all streams hold of messages that are not whole",
        _ARRIVING,
        "_split(left, bounds.total)[0]",
        "[]",
        _COMING,
        "who_ends",
    ),
    Mutation(
        "streams whose messages do not end are looked at",
        _ARRIVING,
        "            self._of.touch(line)",
        "            pass",
        _COMING,
        "streams_of_one_caller",
    ),
    Mutation(
        "whole messages are no half ones",
        _ARRIVING,
        "self.whole += size + (size >> 6) + 64",
        "pass",
        _COMING,
        "hold_nothing",
    ),
    Mutation(
        "whole messages buy nothing in advance",
        _ARRIVING,
        "stream.begun = min(stream.begun, left)",
        "pass",
        _COMING,
        "in_advance",
    ),
    Mutation(
        "floods of frames",
        _ARRIVING,
        'self._cut(line, "flood")',
        "pass",
        _COMING,
        "flood",
    ),
    Mutation(
        "trusted proxies: nobody else is believed",
        _PROXIES,
        "if not self.trusts(host):",
        "if False:",
        _PROXIES_TESTS,
        "only_a_trusted",
    ),
    Mutation(
        "trusted proxies: what a client writes does not count",
        _PROXIES,
        "if not self.trusts(found):",
        "if False:",
        _PROXIES_TESTS,
        "whom_a_proxy",
    ),
    Mutation(
        "trusted proxies: a malformed header counts for nothing",
        _PROXIES,
        "if address is None or count == _MAX_HOPS:",
        "if address is None:\n                continue\n            if count == _MAX_HOPS:",
        _PROXIES_TESTS,
        "whom_a_proxy",
    ),
    Mutation(
        "trusted proxies: bodies",
        "gateway/rest/connection.py",
        "self._belongs_to(self._forwarded_for(self._proxied))",
        "pass",
        _PROXIES_TESTS,
        "bodies_are_held",
    ),
    Mutation(
        "trusted proxies: calls",
        _ARRIVING,
        "if line.proxy is None or self._proxies is None:",
        "if True:",
        _PROXIES_TESTS,
        "watches_are_counted",
    ),
)
