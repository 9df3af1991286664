"""Requests of one row to as many as make megabytes, ten seconds each, waiting callers.

    locust -f loadtest/scenarios/payload_sweep.py --headless -u 2 --host http://localhost:8000 --model convnet

Of convnet, whose row is 3 KB: 3 KB, 31 KB, 600 KB and 4 MB.
"""

from loadtest.users.scenario import Scenario, install

ROWS = (1, 10, 196, 1338)

install(Scenario(name="payload-sweep", seconds=40, p99_ms=10_000, stages=ROWS, fronts=("v2_rest_binary",)), globals())
