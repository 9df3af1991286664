"""Scenarios for Locust, one a file: ``locust -f loadtest/scenarios/steady.py --headless --host http://localhost:8000``.

Each ends by itself, and its exit code is 1 where its p99 or its share of errors is above the scenario's limit.
"""
