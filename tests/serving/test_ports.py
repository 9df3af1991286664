from __future__ import annotations

import os
import socket

import pytest

from serving.options import PORTS, parse
from serving.ports import Listener, PortsTaken, check_free


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def listener(port: int, option: str = "--a-port") -> Listener:
    return Listener(server="gateway", host="127.0.0.1", port=port, option=option)


def test_all_taken_ports_are_told_at_once_with_whom_and_what_to_change() -> None:
    """Not one per try; the process that has the port is named where the system tells it."""
    with listening() as first, listening() as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
        with pytest.raises(PortsTaken) as caught:
            check_free([listener(ports[0], "--a-port"), listener(ports[1], "--b-port")])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    for line, port, option in zip(lines, ports, ("--a-port", "--b-port"), strict=True):
        assert f"port {port} " in line
        assert f"{option} PORT" in line
        assert f"(pid {os.getpid()})" in line


def test_a_server_on_all_addresses_takes_the_loopback_port_too() -> None:
    """A program on 0.0.0.0 would get the calls or keep ours from starting."""
    with socket.create_server(("0.0.0.0", 0)) as taken, pytest.raises(PortsTaken):
        check_free([listener(taken.getsockname()[1])])


def test_a_port_just_closed_is_free() -> None:
    """Its last connection is in TIME_WAIT for a minute, which keeps no server from listening."""
    with listening() as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0] as accepted:
            accepted.close()
    check_free([listener(port)])


def test_two_servers_cannot_have_one_port() -> None:
    """Both options are named."""
    with listening() as server:
        port = server.getsockname()[1]
    with pytest.raises(PortsTaken, match=r"(?s)--a-port.*--b-port"):
        check_free([listener(port, "--a-port"), listener(port, "--b-port")])


def test_an_address_that_is_not_here_is_told() -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    with pytest.raises(PortsTaken, match=r"cannot be opened on 192\.0\.2\.1"):
        check_free([Listener(server="gateway", host="192.0.2.1", port=22099, option="--a-port")])


def test_every_port_has_its_option_and_the_offset_moves_what_is_not_given() -> None:
    """A second instance needs one option, not eight."""
    options = parse(["up", "--port-offset", "100", "--http-port", "9000"])
    by_option = {entry.option: entry.port for entry in options.listeners()}
    assert by_option == {option: default + 100 for option, default, *_ in PORTS} | {"--http-port": 9000}


def test_all_but_the_gateways_fronts_stay_on_loopback() -> None:
    """--host opens the clients' ports, --admin-host the administration, and nothing opens a server."""
    options = parse(["up", "--host", "0.0.0.0"])
    others = [entry for entry in options.listeners() if entry.option not in ("--http-port", "--grpc-port")]
    assert {entry.host for entry in others} == {"127.0.0.1"}


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_out_of_range_is_refused_with_the_range(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 too: a port that nobody knows cannot be written into the gateway's settings."""
    with pytest.raises(SystemExit):
        parse(["up", f"--http-port={port}"])
    assert "from 1 to 65535" in capsys.readouterr().err
