"""Does it answer at all? One caller a front, all fronts, ten seconds.

locust -f loadtest/scenarios/smoke.py --headless -u 7 --host http://localhost:8000
"""

from loadtest.fronts import FRONTS
from loadtest.users.scenario import Scenario, install

install(Scenario(name="smoke", seconds=10, p99_ms=1000, errors=0.0, fronts=tuple(FRONTS)), globals())
