"""One to 32 rows a request, ten seconds each, waiting callers; Locust's page has a line for each size.

locust -f loadtest/scenarios/batch_sweep.py --headless -u 4 --host http://localhost:8000
"""

from loadtest.users.scenario import Scenario, install

ROWS = (1, 2, 4, 8, 16, 32)

install(Scenario(name="batch-sweep", seconds=60, p99_ms=2000, stages=ROWS, fronts=("v2_rest_binary",)), globals())
