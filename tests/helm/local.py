"""Runs a rendered pod's containers as processes of this machine: same commands, environment, files and probes.

What a cluster would do is done by replacing words in them: mounted paths by folders, ports by free ones, names of
Services by the loopback address. `tensorflow_model_server` is the embedded
server, `java` the one that TorchServe has here.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.torchserve import find_java
from tests.helm.chart import ROOT, Object, Rendering, containers
from tests.stack import ARTIFACTS, free_ports

#: Every port that a rendered pod listens on.
PORTS = (8000, 8001, 8002, 8500, 8501, 8080, 8081, 8082, 8083, 8085, 7070, 7071, 5557)

#: Every folder that one writes to or reads from.
TEMPORARY = "/tmp"  # noqa: S108 - a word in a manifest
PATHS = ("/etc/duet", "/etc/tfserving", "/etc/torchserve", "/run/torchserve", "/models", "/results", TEMPORARY)

#: Where the load test's image has its scenarios: the repository.
SCENARIOS = "/opt/duet"


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()


@dataclass
class Machine:
    rendering: Rendering
    folder: Path
    ports: Mapping[int, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    running: list[Running] = field(default_factory=list)

    def pod(self, name: str) -> Object:
        found = dict(self.rendering.pods())
        return found[name]

    def localised(self, text: str) -> str:
        """The text with this machine's folders, ports and addresses."""
        hosts = "|".join(re.escape(one["metadata"]["name"]) for one in self.rendering.all("Service"))
        text = re.sub(rf"\b({hosts}|0\.0\.0\.0)(?=:|\s*$|\")", "127.0.0.1", text, flags=re.M)
        ports = "|".join(map(str, self.ports))
        text = re.sub(rf"(?<=[:=\s])({ports})\b", lambda found: str(self.ports[int(found[1])]), text)
        paths = "|".join((*PATHS, SCENARIOS))
        return re.sub(rf"(?<![\w/])((?:file://)?)({paths})(?=[/\s\"']|$)", self._folder, text, flags=re.M)

    def _folder(self, found: re.Match[str]) -> str:
        return f"{found[1]}{ROOT if found[2] == SCENARIOS else f'{self.folder}{found[2]}'}"

    def mount(self, pod: Object) -> None:
        """The files of the pod's ConfigMaps and Secrets, where its containers look for them."""
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for one in containers(pod):
            for mount in one["volumeMounts"]:
                target = Path(f"{self.folder}{mount['mountPath']}")
                files = self._files(volumes[mount["name"]])
                if "subPath" in mount:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(self.localised(files[mount["subPath"]]))
                    continue
                target.mkdir(parents=True, exist_ok=True)
                for name, text in files.items():
                    (target / name).write_text(self.localised(text))

    def _files(self, volume: Mapping[str, Any]) -> dict[str, str]:
        if "configMap" in volume:
            return dict(self.rendering.one("ConfigMap", volume["configMap"]["name"])["data"])
        if "secret" in volume:
            data = self.rendering.one("Secret", volume["secret"]["secretName"])["data"]
            return {name: base64.b64decode(value).decode() for name, value in data.items()}
        return {}

    def start(self, pod: Object, container: str) -> Running:
        one = next(c for c in containers(pod) if c["name"] == container)
        command = [self.localised(part) for part in (*one["command"], *one.get("args", []))]
        environment = {variable["name"]: self.localised(variable["value"]) for variable in one.get("env", [])}
        environment["PATH"] = f"{self._programs()}:{Path(sys.executable).parent}:/usr/bin:/bin"
        environment["PYTHONPATH"] = str(ROOT)
        log = self.folder / f"{container}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.localised(one.get("workingDir", TEMPORARY)),
                stdout=stream,
                stderr=stream,
            )
        self.running.append(Running(process, log))
        return self.running[-1]

    def _programs(self) -> Path:
        programs = self.folder / "bin"
        if programs.exists():
            return programs
        programs.mkdir()
        server = programs / "tensorflow_model_server"
        flags = "--grpc_host=127.0.0.1 --tensorflow_intra_op_parallelism=1 --tensorflow_inter_op_parallelism=1"
        server.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m serving.embedded {flags} "$@"\n')
        server.chmod(0o755)
        java = programs / "java"
        java.symlink_to(find_java(os.environ))
        return programs

    def place_models(self, framework: str) -> None:
        target = Path(f"{self.folder}/models")
        target.mkdir(exist_ok=True)
        for path in (ARTIFACTS / framework).iterdir():
            (target / path.name).symlink_to(path.resolve())

    def stop(self) -> None:
        for one in reversed(self.running):
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait(20)
