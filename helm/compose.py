"""Writes what compose.yaml mounts, as the chart renders it: `python helm/compose.py HELM`; --check only compares."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "deploy" / "compose"
_SERVICES = {"duet-tfserving:": "tfserving:", "duet-torchserve:": "torchserve:"}


def main(helm: str) -> int:
    files = made(render(helm))
    wrong = {path: text for path, text in files.items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv:
        for path in wrong:
            print(f"{path} is not what the chart renders: run `make chart-docs`", file=sys.stderr)
        return 1 if wrong else 0
    for path, text in wrong.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def render(helm: str) -> list[dict[str, Any]]:
    command = [helm, "template", "duet", str(ROOT / "helm" / "duet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the operator's own program
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def made(objects: list[dict[str, Any]]) -> dict[Path, str]:
    """The files, each with its text."""
    named = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    settings = named["ConfigMap", "duet-gateway"]["data"]["duet.yaml"]
    for service, name in _SERVICES.items():
        settings = settings.replace(service, name)
    found = {TARGET / "duet.yaml": settings}
    for server in ("tfserving", "torchserve"):
        for name, text in named["ConfigMap", f"duet-{server}-main"]["data"].items():
            found[TARGET / server / name] = text
    pod = named["Deployment", "duet-torchserve-main"]["spec"]["template"]["spec"]
    [torchserve] = pod["containers"]
    script, arguments = torchserve["command"][2], shlex.join(torchserve["args"])
    found[TARGET / "torchserve" / "run.sh"] = f"#!/bin/sh\nset -e\nset -- {arguments}\n{script.rstrip()}\n"
    return found


if __name__ == "__main__":
    sys.exit(main(next(argument for argument in sys.argv[1:] if not argument.startswith("--"))))
