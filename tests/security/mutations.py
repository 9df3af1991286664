"""``make attack-mutations``: switches every control off in turn, in a copy, and shows that a test notices.

A mutation is a change of one place in the code. It counts as noticed only where its tests, which pass without it, fail:
an import that breaks, or no test at all, proves nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.security.mutation import Mutation
from tests.security.mutations_access import ACCESS
from tests.security.mutations_calls import CALLS
from tests.security.mutations_decoding import DECODING
from tests.security.mutations_http import HTTP
from tests.security.mutations_input import INPUT
from tests.security.mutations_siege import SIEGE

ROOT = Path(__file__).parents[2]
_COPIED = ("gateway", "serving", "models", "tests", "pyproject.toml")
_SECONDS = 300


#: Each part of the controls has a file of its own.
MUTATIONS: tuple[Mutation, ...] = (*ACCESS, *HTTP, *INPUT, *CALLS, *DECODING, *SIEGE)


def main() -> int:
    arguments = _parser().parse_args()
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.control]
    with tempfile.TemporaryDirectory(prefix="duet-mutations-") as folder:
        copy = Path(folder)
        _copy(copy)
        broken = [name for name in sorted({mutation.tests for mutation in chosen}) if _pytest(copy, name, "") != 0]
        if broken:
            print(f"Without any mutation these fail: {', '.join(broken)}")
            return 1
        missed = sum(not _noticed(copy, number, mutation) for number, mutation in enumerate(chosen, 1))
    print(f"{len(chosen) - missed} of {len(chosen)} mutations were noticed")
    return 1 if missed or not chosen else 0


def _noticed(copy: Path, number: int, mutation: Mutation) -> bool:
    file = copy / mutation.file
    text = file.read_text()
    if mutation.old not in text:
        raise SystemExit(f"{mutation.control}: {mutation.file} no longer holds {mutation.old!r}; change the mutation")
    begun = time.monotonic()
    file.write_text(text.replace(mutation.old, mutation.new, 1))
    try:
        # 1 is pytest's word for tests that failed; all else is something else.
        red = _pytest(copy, mutation.tests, mutation.words) == 1
    finally:
        file.write_text(text)
    seconds = time.monotonic() - begun
    print(
        f"{number:3} {'red   ' if red else 'MISSED'} {seconds:5.1f} s  {mutation.control}  ({mutation.file})",
        flush=True,
    )
    return red


def _pytest(copy: Path, tests: str, words: str) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/security/{tests}"]
    if words:
        command += ["-k", words]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        return -1
    if done.returncode not in (0, 1):
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return done.returncode


def _copy(target: Path) -> None:
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.security.mutations", description="Switches controls off")
    parser.add_argument("only", nargs="?", default="", help="only controls whose names hold this")
    return parser


if __name__ == "__main__":
    sys.exit(main())
