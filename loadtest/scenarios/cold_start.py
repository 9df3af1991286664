"""Start it, then start the servers: when does the first answer come, what does it cost, and when is it steady?

    locust -f loadtest/scenarios/cold_start.py --headless --host http://localhost:8000 --seconds 60

`python -m loadtest cold-start` restarts the servers itself, many times.
"""

from loadtest.users.coldstart import install_cold_start

install_cold_start(globals())
