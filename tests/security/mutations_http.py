"""The controls of browsers and of bodies that are being received, each switched off."""

from __future__ import annotations

from tests.security.mutation import Mutation

_FENCE, _APP = "gateway/rest/fence.py", "gateway/app.py"
_ROOM = "gateway/rest/room.py"
_TESTS, _SILENT = "test_fence.py", "test_silent_bodies.py"
_PURE = "../gateway/rest/test_room.py"

HTTP: tuple[Mutation, ...] = (
    Mutation("hosts are allowed", _FENCE, "if not self._hosts.allow(host):", "if False:", _TESTS, "bound"),
    Mutation(
        "names that only hold loopback's are others",
        _FENCE,
        "name in self._names or name.endswith(self._below)",
        "any(own in name for own in self._names)",
        _TESTS,
        "bound",
    ),
    Mutation("hosts default to loopback's", _FENCE, "if is_loopback(listens_on)", "if False", _TESTS, "default"),
    Mutation(
        "hosts are remembered up to a number",
        _FENCE,
        "if len(self._right) < _MAX_REMEMBERED:",
        "if True:",
        _TESTS,
        "remembered",
    ),
    Mutation(
        "foreign origins are refused",
        _FENCE,
        "return origin is not None and not _is_of(origin.lower(), host.lower())",
        "return False",
        _TESTS,
        "runs_no_model",
    ),
    Mutation(
        "pages of other sites are refused",
        _FENCE,
        'site.lower() not in (b"none", b"same-origin")',
        "False",
        _TESTS,
        "reads_nothing",
    ),
    Mutation(
        "other ports of this machine are other websites",
        _FENCE,
        '(b"none", b"same-origin")',
        '(b"none", b"same-origin", b"same-site")',
        _TESTS,
        "reads_nothing",
    ),
    Mutation(
        "the admin port keeps pages out",
        _APP,
        'own, dialects = (Fenced(app, hosts=hosts, port="admin") for app in (own, dialects))',
        "pass",
        _TESTS,
        "reads_nothing",
    ),
    Mutation(
        "keys on the admin port",
        _APP,
        "        dialects = http\n",
        "        dialects = Hot(whole, hot)\n",
        _TESTS,
        "keys",
    ),
    Mutation(
        "callers have shares of the room",
        _ROOM,
        "own + size <= self._shares.caller * left_by_callers",
        "size <= left_by_callers",
        _SILENT,
        "refuse",
    ),
    Mutation("small bodies have room", _ROOM, "int(max_bytes * shares.small)", "0", _PURE, "none_of_the_room"),
    Mutation(
        "large bodies leave the room for small ones",
        _ROOM,
        "if after <= self._shares.small_bytes and",
        "if",
        _PURE,
        "none_of_the_room",
    ),
    Mutation(
        "bodies are paced over the last seconds",
        _ROOM,
        "self._before, self._mark = self._mark, (now, self.received_bytes)",
        "pass",
        _SILENT,
        "long_ago",
    ),
    Mutation(
        "slow bodies make way",
        "gateway/rest/connection.py",
        "and not self._crowd.make_room(self._holding, size)",
        "",
        _SILENT,
        "makes_way",
    ),
    Mutation(
        "pages call no gRPC",
        "gateway/grpc/pages.py",
        "if told and self._origins.isdisjoint(told):",
        "if False:",
        _TESTS,
        "over_grpc",
    ),
)
