"""Who may import whom. The picture is in ARCHITECTURE.md; this keeps it true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"tensorflow", "torch", "keras", "tensorflow_serving", "ts"}
WEB = {"fastapi", "starlette", "uvicorn", "httptools", "httpx", "aiohttp", "grpc"}
ROOMS = {"gateway", "models", "serving", "loadtest"}

_FRONT = {"types", "errors", "pins", "core", "codecs", "backends.base", "metrics", "observation", "__version__"}
_FRONT |= {"information", "statistics", "security"}

#: Part of the gateway -> the parts of the gateway that it may import.
ALLOWED = {
    "errors": set(),
    "core": {"errors"},
    "types": {"core", "errors"},
    "pins": {"types", "errors"},
    "signature": {"types", "errors"},
    "codecs": {"types", "errors", "core", "protos", "codecs"},
    "stamps": set(),
    "backends": {"types", "errors", "core", "backends"},
    "servers": {"types", "errors", "core", "protos", "codecs", "backends.base", "servers", "tls", "stamps"},
    "tls": {"stamps"},
    "layers": {"types", "errors", "backends.base", "metrics", "layers"},
    "versions": {"types", "errors"},
    "statistics": set(),
    "information": {"types", "errors", "core", "statistics", "codecs", "backends.base", "security"},
    "observation": {"types", "errors", "metrics", "statistics", "logging", "security.access", "security.audit"},
    "security": {"types", "errors", "core", "config", "backends.base", "security", "stamps", "logging"},
    "registry": {"types", "errors", "core", "signature", "backends.base"},
    "router": {"types", "errors", "core", "signature", "versions", "backends.base", "registry"},
    "workers": {"config", "security.ledger", "workers"},
    "rest": _FRONT | {"rest"},
    "grpc": _FRONT | {"grpc", "protos"},
}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in the file; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_files(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not path.name.endswith("_pb2.py")]


@pytest.mark.parametrize("path", python_files("gateway"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_gateway_imports_no_framework_and_no_other_room(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & FRAMEWORKS
    assert not tops & (ROOMS - {"gateway"})


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_inside_the_gateway_go_one_way(part: str) -> None:
    single = ROOT / "gateway" / f"{part}.py"
    for path in [single] if single.exists() else python_files(f"gateway/{part}"):
        for name in imports(path):
            inner = name.removeprefix("gateway.")
            if inner != name:
                allowed = ALLOWED[part]
                assert inner.split(".")[0] in allowed or ".".join(inner.split(".")[:2]) in allowed, f"{path}: {name}"


def test_settings_are_read_without_the_libraries_of_a_wire() -> None:
    """The supervisor of workers reads them, and has no use for a client: a kind imports its own only to connect."""
    code = f"import sys, gateway.config; print(sorted(set({sorted(WEB)}) & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("path", python_files("gateway"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kind_of_server_is_named_in_its_folder_and_in_the_list_alone(path: Path) -> None:
    """A kind is a plug-in: whoever adds one touches no other file of the gateway. `door.py` is TorchServe's sidecar."""
    inside = path.relative_to(ROOT / "gateway").as_posix()
    kinds = {folder.name for folder in (ROOT / "gateway/servers").iterdir() if (folder / "kind.py").exists()}
    named = {name.split(".")[2] for name in imports(path) if name.startswith("gateway.servers.")} & kinds
    if inside.startswith("servers/"):
        named -= {inside.split("/")[1]}
    assert not named or inside in ("servers/kinds.py", "door.py")


def test_names_of_models_are_taken_apart_in_one_place() -> None:
    """``model@variant`` is parsed into a `ModelRef` once; nobody splits it again."""
    splits = re.compile(r"""split\(\s*["']@|partition\(\s*["']@""")
    assert {path.name for path in python_files("gateway") if splits.search(path.read_text())} == {"modelref.py"}


def test_only_the_serving_process_imports_the_composition_root() -> None:
    users = {path.name for path in python_files("gateway") if any(n.startswith("gateway.app") for n in imports(path))}
    assert users == {"process.py"}


@pytest.mark.parametrize(
    "part", ["types", "errors", "core", "pins", "signature", "codecs", "layers", "router", "registry"]
)
def test_the_middle_knows_no_wire_library(part: str) -> None:
    single = ROOT / "gateway" / f"{part}.py"
    for path in [single] if single.exists() else python_files(f"gateway/{part}"):
        assert not {name.split(".")[0] for name in imports(path)} & WEB


def test_each_room_imports_its_own_framework_only() -> None:
    """Training and the benchmark's model need both; the embedded server TensorFlow, the TorchServe handler torch."""
    for path in [*python_files("serving"), *python_files("loadtest")]:
        found = {name.split(".")[0] for name in imports(path)} & FRAMEWORKS
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith("serving/embedded/"):
            assert found <= {"tensorflow", "tensorflow_serving"}, relative
        elif relative == "serving/handler.py":
            assert found <= {"torch", "ts"}, relative
        elif relative.startswith("loadtest/bench/peers/"):
            assert found <= {"torch"}, relative
        elif relative == "loadtest/bench/twins.py":
            assert found <= {"tensorflow", "torch"}, relative
        else:
            assert not found, relative
