"""When a file is to be read again."""

from __future__ import annotations

from pathlib import Path

#: Times in nanoseconds, size, inode. The change time is among them: a file that is made readable keeps its
#: modification time.
Stamp = tuple[int, int, int, int]


def stamp(path: Path) -> Stamp:
    """Differs once the file's content, owner or mode has changed. Raises OSError.

    Take it before reading, and keep it only after reading has succeeded: a change in between, or a file that could not
    be read for a moment, is then seen the next time.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
