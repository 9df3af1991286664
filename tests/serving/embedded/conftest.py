from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.embedded import savedmodels, signatures
from tests.serving.embedded.process import EMBEDDED, Server, config_text

DUET = b'{"name": "half", "rows": "independent"}\n'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server-cmd", help="run the contract against this server, e.g. tensorflow_model_server")


@pytest.fixture(scope="session")
def command(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--server-cmd", default=None) or EMBEDDED


@pytest.fixture
def embedded_only(command: str) -> None:
    """For what the real server does not do: end with 0 at a signal, say which port is taken."""
    if command != EMBEDDED:
        pytest.skip("the real server does otherwise")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`half` in versions 1 and 2 (offsets 2 and 3), `sums`, `text`, `types`, `slow`, and those of `signatures`.

    Of version 2 of `half` Duet knows its rows.
    """
    folder = tmp_path_factory.mktemp("store")
    savedmodels.save(folder / "half" / "1", savedmodels.half_plus(2))
    savedmodels.save(folder / "half" / "2", savedmodels.half_plus(3))
    (folder / "half" / "2" / "assets.extra").mkdir()
    (folder / "half" / "2" / "assets.extra" / "duet.json").write_bytes(DUET)
    for build in (savedmodels.sums, savedmodels.text, savedmodels.types, savedmodels.slow):
        savedmodels.save(folder / build.__name__ / "1", build)
    signatures.save_all(folder)
    return folder


@pytest.fixture(scope="session")
def server(store: Path, command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that only ask."""
    folder = tmp_path_factory.mktemp("server")
    names = ("half", "sums", "text", "types", "slow", "scaled", "every", "nothing", "odd", "tasks", "biased")
    models = {name: store / name for name in names}
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "lost" value: 9 }'
    text = config_text(models).replace('/half" ', f'/half" {labels} ')
    (folder / "models.config").write_text(text)
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = [f"--model_config_file={folder / 'models.config'}", "--allow_version_labels_for_unavailable_models=true"]
    flags += [f"--monitoring_config_file={monitoring}", "--enable_grpc_healthcheck_service=true"]
    running = Server(folder, flags, command=command)
    try:
        yield running.ready()
    finally:
        running.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as made:
        yield made
