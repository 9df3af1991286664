"""From nothing to twice the rate within two minutes: where does latency begin to rise?

locust -f loadtest/scenarios/ramp.py --headless --host http://localhost:8000 --rate 200
"""

from loadtest.users.scenario import Scenario, install


def rate(second: float, base: float, seconds: float) -> float:
    return 2 * base * second / seconds


install(Scenario(name="ramp", seconds=120, p99_ms=1000, rate=rate, most=2.0), globals())
