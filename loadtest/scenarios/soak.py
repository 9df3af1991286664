"""Ten minutes at one rate; the gateway's memory must not grow by more than 5 % after the first minute.

locust -f loadtest/scenarios/soak.py --headless --host http://localhost:8000 --admin localhost:8002
"""

from loadtest.users.memory import watch_memory
from loadtest.users.scenario import Scenario, install


def rate(second: float, base: float, seconds: float) -> float:
    return base


install(Scenario(name="soak", seconds=600, p99_ms=500, rate=rate, check=watch_memory()), globals())
