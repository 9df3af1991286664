"""TLS on both sides with certificates of a real authority: who is let in, and that they change under load."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from gateway.protos import v2_pb2
from gateway.tls import ClientTls, ServerTls
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.fakes.v2 import FakeV2
from tests.gateway.conftest import RunningGateway, free_port, start_gateway, wait_for
from tests.security.authority import Authority, Pair
from tests.security.door import BODY

LIVE = "/inference.GRPCInferenceService/ServerLive"


@dataclass
class Secured:
    """A gateway that speaks TLS to clients and servers, all of which must show certificates."""

    gateway: RunningGateway
    authority: Authority
    listener: Pair
    caller: Pair
    shown: Pair

    def context(self, caller: Pair | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.file)
        if caller is not None:
            context.load_cert_chain(caller.cert, caller.key)
        return context

    def infer(self, context: ssl.SSLContext, variant: str = "tensorflow") -> httpx.Response:
        url = f"{self.gateway.url}/v2/models/double@{variant}/infer"
        return httpx.post(url, content=BODY, verify=context, timeout=20)

    def live(self, caller: Pair | None) -> bool:
        key, cert = (caller.key.read_bytes(), caller.cert.read_bytes()) if caller else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.file.read_bytes(), key, cert)
        with grpc.secure_channel(f"127.0.0.1:{self.gateway.grpc_port}", credentials) as channel:
            answer = channel.unary_unary(LIVE, response_deserializer=v2_pb2.ServerLiveResponse.FromString)(
                b"", timeout=5
            )
            return bool(answer.live)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    listener, caller, shown = (authority.issue(name) for name in ("gateway", "alice", "shown"))
    tensorflow, pytorch = authority.issue("tensorflow"), authority.issue("pytorch")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    server.load_cert_chain(pytorch.cert, pytorch.key)
    server.verify_mode = ssl.CERT_REQUIRED
    credentials = grpc.ssl_server_credentials(
        [(tensorflow.key.read_bytes(), tensorflow.cert.read_bytes())], authority.file.read_bytes(), True
    )
    v2 = FakeV2({"double": ["1"]}, tls=server, credentials=credentials)
    fakes = FakeTFServing({"double": [1]}, tls=credentials), FakeTorchServe({"double": ["1"]}, tls=server), v2
    own = {**listener.settings, "client_ca": str(authority.file)}
    calls = {"ca": str(authority.file), **shown.settings}
    url = f"https://127.0.0.1:{fakes[1].port}"
    settings: dict[str, Any] = {
        "http": {"tls": own},
        "grpc": {"tls": own},
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": fakes[0].endpoint, "tls": {**calls, "name": "tensorflow"}},
            "pytorch": {"kind": "torchserve", "endpoint": url, "management": url, "tls": {**calls, "name": "pytorch"}},
            "rest": {
                "kind": "v2",
                "endpoint": f"https://127.0.0.1:{v2.http_port}",
                "tls": {**calls, "name": "pytorch"},
            },
            "grpc": {"kind": "v2", "endpoint": v2.grpc_endpoint, "tls": {**calls, "name": "tensorflow"}},
        },
        "models": {"double": {}},
    }
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(caller.cert, caller.key)
    running = start_gateway(settings, folder, tls=context)
    try:
        for variant in ("tensorflow", "pytorch", "rest", "grpc"):
            running.wait_until(f"/v2/models/double@{variant}/ready", 200)
        yield Secured(running, authority, listener, caller, shown)
    finally:
        running.stop()
        for fake in fakes:
            fake.close()
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("variant", ["tensorflow", "pytorch", "rest", "grpc"])
def test_a_client_with_a_certificate_is_answered_by_servers_that_ask_for_one(secured: Secured, variant: str) -> None:
    assert secured.infer(secured.context(secured.caller), variant).json()["outputs"][0]["data"] == [2.0]
    assert secured.live(secured.caller)


def test_a_client_without_a_certificate_is_not_let_in(secured: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        secured.infer(secured.context(None))
    with pytest.raises(grpc.RpcError):
        secured.live(None)


def test_a_certificate_of_another_authority_is_not_let_in(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "other").issue("alice")
    with pytest.raises(httpx.TransportError):
        secured.infer(secured.context(stranger))
    with pytest.raises(grpc.RpcError):
        secured.live(stranger)


def test_nothing_below_tls_1_2_is_spoken(secured: Secured) -> None:
    context = secured.context(secured.caller)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert secured.infer(context).status_code == 200
    old = secured.context(secured.caller)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.TransportError):
        secured.infer(old)


def test_the_least_version_does_not_depend_on_the_systems_openssl(secured: Secured) -> None:
    listening = ServerTls(cert=secured.listener.cert, key=secured.listener.key).context()
    calling = ClientTls(name="x", ca=secured.authority.file).context()
    assert listening.minimum_version == calling.minimum_version == ssl.TLSVersion.TLSv1_2


def test_plain_http_is_not_answered(secured: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.gateway.url.replace("https", "http") + "/v2", timeout=5)


def seen_by(secured: Secured) -> bytes:
    """The certificate that the gateway shows."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", httpx.URL(secured.gateway.url).port, context=secured.context(secured.caller), timeout=10
    )
    connection.connect()
    found = connection.sock.getpeercert(binary_form=True)
    connection.close()
    assert found
    return found


def test_certificates_change_under_load_without_one_failure(
    secured: Secured, record_property: Callable[[str, object], None]
) -> None:
    """Four callers, each with new connections and kept ones, over REST to either server and over gRPC."""
    stop, failures, answers = threading.Event(), [], []

    def call(ask: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                ask()
                answers.append(1)
            except Exception as error:
                failures.append(repr(error))
            time.sleep(0.01)

    fresh = secured.context(secured.caller)
    kept = httpx.Client(base_url=secured.gateway.url, verify=fresh, timeout=20)

    def ask_kept() -> None:
        assert kept.post("/v2/models/double@pytorch/infer", content=BODY).status_code == 200

    def ask_fresh(variant: str) -> None:
        assert secured.infer(fresh, variant).status_code == 200

    asks = [
        ask_kept,
        lambda: ask_fresh("tensorflow"),
        lambda: ask_fresh("pytorch"),
        lambda: secured.live(secured.caller),
    ]
    threads = [threading.Thread(target=call, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    shown = {seen_by(secured)}
    rounds = 4
    for _ in range(rounds):
        before = len(answers)
        secured.authority.issue("gateway", into=secured.listener)
        secured.authority.issue("shown", into=secured.shown)
        shown.add(seen_by(secured))
        wait_for(lambda before=before: len(answers) >= before + 20, "the load to go on")  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    kept.close()
    record_property("cases", len(answers) + len(failures))
    record_property("figure", f"{rounds} rotations under load, {len(failures)} failures")
    assert failures == []
    assert len(shown) == rounds + 1


def test_half_a_pair_is_passed_over_until_it_is_whole(secured: Secured) -> None:
    before, certificate = seen_by(secured), secured.listener.cert.read_bytes()
    secured.listener.cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert seen_by(secured) == before
    secured.listener.cert.unlink()
    assert seen_by(secured) == before
    secured.listener.cert.write_bytes(certificate)
    assert seen_by(secured) == before
    secured.authority.issue("gateway", into=secured.listener)
    assert seen_by(secured) != before


def test_files_that_cannot_be_used_end_the_start_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "duet.yaml"
    tls = {"cert": str(tmp_path / "none.crt"), "key": str(tmp_path / "none.key")}
    servers = {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}
    ports = {name: {"port": free_port()} for name in ("grpc", "admin")}
    settings = {"http": {"port": free_port(), "tls": tls}, "servers": servers, "auth": {"mode": "off"}, **ports}
    path.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "gateway", "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "http.tls: the certificates cannot be used, see above"
