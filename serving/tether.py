"""Runs a command that cannot outlive its parent: `python -ISE tether.py PARENT_PID COMMAND...`.

On Linux the kernel kills the command when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), however it
ends; exec keeps the setting. Elsewhere the command just runs, and the next start finds what was left.
A program of its own because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel knew
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  (the point of this program; no shell is wanted)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
