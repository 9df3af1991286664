"""One attack, until it is ended: ``python -m tests.security.siege.attacker NAME TARGET``; it begins at a line of input.

What it holds is written to standard output four times a second. It is ``nice``, so that it takes no processor time
from those whose waiting is measured: what they wait for is the gateway's work.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys

import uvloop

from tests.security.siege.attacks import ATTACKS
from tests.security.siege.wire import Target

_NICE = 10


async def _attack(name: str, target: Target) -> None:
    prepared = ATTACKS[name].run(target)
    print(json.dumps(["ready"]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    running = asyncio.ensure_future(prepared)
    while not running.done():
        await asyncio.wait([running], timeout=0.25)
        print(json.dumps({"held": target.held, "did": target.did}), flush=True)
    await running  # an attack that breaks is an error of ours


if __name__ == "__main__":
    os.nice(_NICE)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    uvloop.run(_attack(sys.argv[1], Target.of(sys.argv[2])))
