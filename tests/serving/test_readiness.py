from __future__ import annotations

import socket

from serving.readiness import Goal, Readiness, page_is_ok, port_answers


class Asked:
    """A goal's probe: says what it is told and counts how often it was asked."""

    def __init__(self) -> None:
        self.answer = False
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return self.answer


def test_a_servers_first_goal_opens_the_others() -> None:
    """Nobody is asked for models behind a port that does not answer; what is still lacking is told in order."""
    port, model = Asked(), Asked()
    readiness = Readiness({"torchserve": [Goal("port 1", port), Goal("convnet", model)]})
    assert not readiness.poll()
    assert model.times == 0
    assert readiness.waiting_for() == {"torchserve": "port 1, convnet"}
    port.answer = True
    assert not readiness.poll()
    assert model.times == 1
    assert readiness.waiting_for() == {"torchserve": "convnet"}


def test_everything_is_ready_when_every_server_is() -> None:
    """What was reached is not asked again; the time of each is kept."""
    first, second, clock = Asked(), Asked(), iter([0.0, 2.0, 5.0])
    goals = {"a": [Goal("port", first)], "b": [Goal("port", second)]}
    readiness = Readiness(goals, now=lambda: next(clock))
    first.answer = True
    assert not readiness.poll()
    second.answer = True
    assert readiness.poll()
    assert readiness.ready_after_seconds == {"a": 2.0, "b": 5.0}
    assert first.times == 1


def test_a_closed_port_neither_answers_nor_has_pages() -> None:
    """No exception: not ready is an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_answers("127.0.0.1", port)
    assert not port_answers("127.0.0.1", port)
    assert not page_is_ok("127.0.0.1", port, "/readyz")
