"""What README.md shows of calls is what they answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT, Stack

PROMPTS = {"console": "$ ", "pycon": ">>> "}


def block(language: str) -> tuple[str, str]:
    """The input and the output of the block under "Call it"."""
    (text,) = re.findall(rf"## Call it.*?```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    prompt = re.escape(PROMPTS[language])
    given = re.compile(rf"^{prompt}((?:.*\\\n)*.*\n)", re.MULTILINE)  # a backslash continues a line
    return "".join(given.findall(text)), given.sub("", text)


def rounded(text: str) -> str:
    """Without layout, and numbers to three digits: another machine trains and computes to other last digits."""
    numbers = re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.3f}", text)
    return re.sub(r"\s", "", numbers)


@pytest.mark.parametrize(
    ("language", "command"),
    [("console", ["bash", "-eu"]), ("pycon", [sys.executable, "-W", "ignore", "-i", "-q"])],
    ids=["curl", "Python"],
)
def test_the_calls_in_the_readme_answer_what_it_says(
    stack: Stack, torchserve_stubs: Path, language: str, command: list[str]
) -> None:
    given, expected = block(language)
    for port, own in ((8000, stack.http_port), (8001, stack.grpc_port)):
        given = given.replace(f"localhost:{port}", f"127.0.0.1:{own}")
    done = subprocess.run(
        command,
        input=given,
        env={**os.environ, "PYTHONPATH": str(torchserve_stubs)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert rounded(done.stdout) == rounded(expected), done.stderr
    assert len(re.findall(r"4\.000", rounded(done.stdout))) == 3
