"""Five times the rate in the middle fifth of a minute: how is it taken, and how soon is it over?

locust -f loadtest/scenarios/spike.py --headless --host http://localhost:8000 --rate 50
"""

from loadtest.users.scenario import Scenario, install


def rate(second: float, base: float, seconds: float) -> float:
    return 5 * base if 0.4 <= second / seconds < 0.6 else base


install(Scenario(name="spike", seconds=60, p99_ms=2000, rate=rate, most=5.0), globals())
