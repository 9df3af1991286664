"""All seven fronts at once, each in open loop at a seventh of the rate.

locust -f loadtest/scenarios/mixed_fronts.py --headless -u 7 --host http://localhost:8000 --rate 140
"""

from loadtest.fronts import FRONTS
from loadtest.users.scenario import Scenario, install


def rate(second: float, base: float, seconds: float) -> float:
    return base


install(Scenario(name="mixed-fronts", seconds=60, p99_ms=500, rate=rate, fronts=tuple(FRONTS)), globals())
