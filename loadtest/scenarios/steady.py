"""The same Poisson rate for a minute, in open loop.

locust -f loadtest/scenarios/steady.py --headless --host http://localhost:8000 --rate 100 --variant pytorch
"""

from loadtest.users.scenario import Scenario, install


def rate(second: float, base: float, seconds: float) -> float:
    return base


install(Scenario(name="steady", seconds=60, p99_ms=250, rate=rate), globals())
