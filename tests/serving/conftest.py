from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # torchserve's own version.py leaves a file open, and tells so when it is collected: at once, in CPython.
    warnings.simplefilter("ignore", ResourceWarning)
    import ts  # noqa: F401
