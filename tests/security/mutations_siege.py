"""The controls of what one address holds before anybody can say who calls: connections, handshakes, heads, turns."""

from __future__ import annotations

from tests.security.mutation import Mutation

_PLACES = "gateway/rest/places.py"
_CONNECTION = "gateway/rest/connection.py"
_HANDSHAKE = "gateway/rest/handshake.py"
_TESTS = "test_connections.py"
_SPREAD = "../gateway/rest/test_spread.py"

SIEGE = (
    Mutation(
        "an address's share of the connections",
        _PLACES,
        "if shares and len(own.connections) > self._each:",
        "if False:",
        "../gateway/rest/test_places.py",
        "one_caller_has_its_share",
    ),
    Mutation(
        "who makes way holds most",
        _PLACES,
        "most = max(self._callers.values(), key=lambda one: len(one.connections))",
        "most = next(iter(self._callers.values()))",
        "../gateway/rest/test_places.py",
        "holds_most",
    ),
    Mutation(
        "connections are placed by address",
        _CONNECTION,
        "self._caller = self._holding.caller = of_address(host)",
        "self._caller = self._holding.caller = str(id(self))",
        _TESTS,
        "every_place",
    ),
    Mutation(
        "handshakes have places",
        _HANDSHAKE,
        'makes_way.cut("crowded")',
        "pass",
        "../gateway/rest/test_handshake.py",
        "has_a_place",
    ),
    Mutation(
        "handshakes have a time",
        _HANDSHAKE,
        "ssl_handshake_timeout=seconds",
        "ssl_handshake_timeout=60 + seconds",
        "../gateway/rest/test_handshake.py",
        "has_a_time",
    ),
    Mutation(
        "what comes before TLS is spoken",
        _HANDSHAKE,
        "if early:",
        "if False:",
        "../gateway/rest/test_handshake.py",
        "nothing_is_lost",
    ),
    Mutation(
        "large heads of an address",
        _CONNECTION,
        "own.head_bytes > _HEADS_BYTES_OF_ONE",
        "False",
        _TESTS,
        "large_heads",
    ),
    Mutation(
        "requests that are sent at once",
        "gateway/rest/strict.py",
        "if len(self.pipeline) >= _MAX_PIPELINED:",
        "if False:",
        _TESTS,
        "sent_at_once",
    ),
    Mutation(
        "an address's part of a turn",
        "gateway/rest/spread.py",
        "return pieces < _PIECES",
        "return True",
        _SPREAD,
        "eight_pieces",
    ),
    Mutation(
        "an address's share of gRPC's connections",
        "gateway/grpc/crowding.py",
        "min(len(own), places.each)",
        "len(own)",
        "../gateway/grpc/test_crowding.py",
        "one_caller_has_its_share or every_place",
    ),
    Mutation(
        "whoever holds most gRPC connections makes way",
        "gateway/grpc/crowding.py",
        "level = _level(each.values(), places.total)",
        "level = places.total",
        "../gateway/grpc/test_crowding.py",
        "holds_most",
    ),
    Mutation(
        "gRPC's connections that are too many are cut",
        "gateway/grpc/arriving.py",
        "end(line.socket)",
        "pass",
        "../gateway/grpc/test_crowding.py",
        "every_place",
    ),
    Mutation(
        "gRPC calls that wait are not refused at random",
        "gateway/grpc/server.py",
        "_PENDING = 1 << 30",
        "_PENDING = 1000",
        "../gateway/grpc/test_pending.py",
        "cost_nobody",
    ),
    Mutation(
        "metrics are made for all who ask",
        "gateway/rest/sparing.py",
        "if self._next is None:",
        "if True:",
        _SPREAD,
        "made_once",
    ),
)
