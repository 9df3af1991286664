"""The comparison's arithmetic: schedule, percentiles, intervals, verdicts, search, validity.

A plain library on numpy. It opens no socket and starts no loop, so that whoever makes the load can use it.
"""
