"""The gateway's memory over a run, by its own metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from locust import events
from locust.env import Environment

MOST_GROWTH = 0.05
WARM_SHARE = 0.1
_RESIDENT = re.compile(rb"^process_resident_memory_bytes(?:\{[^}]*\})? ([0-9.e+]+)", re.M)


def watch_memory() -> Callable[[Environment], str]:
    """Reads the resident memory after a tenth of the time and at the end; says what is wrong with it, or nothing."""
    seen: dict[str, float] = {}

    @events.test_start.add_listener
    def begin(environment: Environment, **_: Any) -> None:
        def read_later() -> None:
            gevent.sleep(WARM_SHARE * environment.parsed_options.seconds)
            seen["warm"] = resident_bytes(environment)

        gevent.spawn(read_later)

    def check(environment: Environment) -> str:
        warm, end = seen.get("warm", 0.0), resident_bytes(environment)
        if not warm or not end:
            return "the gateway's memory cannot be read; give its metrics' address with --admin HOST:PORT"
        growth = end / warm - 1
        print(f"soak: the gateway's memory went from {warm / 1e6:.1f} MB to {end / 1e6:.1f} MB ({growth:+.1%})")
        return f"the gateway's memory grew by {growth:.1%}; at most {MOST_GROWTH:.0%}" if growth > MOST_GROWTH else ""

    return check


def resident_bytes(environment: Environment) -> float:
    """Of all the gateway's processes; 0 where it cannot be read. Without --admin it is the port two after HTTP's."""
    at = urlsplit(environment.host or "")
    host, _, port = (environment.parsed_options.admin or f"{at.hostname}:{(at.port or 80) + 2}").rpartition(":")
    client = HTTPClient(host, int(port), network_timeout=5, connection_timeout=5)
    try:
        return sum(float(value) for value in _RESIDENT.findall(bytes(client.get("/metrics").read())))
    except (OSError, ValueError):
        return 0.0
    finally:
        client.close()
