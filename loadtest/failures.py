"""What ends a run, and its exit code. The text is one line that says what to do.

LoadFailed            1: no load can be made, or it broke off
├── NotComparable     4: the two do not compute the same, or not under the same conditions
└── Invalid           3: what is measured here cannot be trusted: no verdict
"""

from __future__ import annotations


class LoadFailed(Exception):
    exit_code = 1


class Invalid(LoadFailed):
    exit_code = 3


class NotComparable(LoadFailed):
    exit_code = 4
