"""The benchmark: rows with targets, measured in turns within one run. `python -m loadtest.bench --help`."""
