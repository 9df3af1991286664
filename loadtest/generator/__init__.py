"""The process that makes the load of one block and records it: ``python -m loadtest.generator JOB.json``."""
