"""What is sent byte by byte: smuggling, truncation, pipelining, 100-continue. The servers behind see nothing."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack

import pytest

from tests.security.door import BODY, LEAK, MODEL, Door, read_answers, request, statuses

INFER = f"/v2/models/{MODEL}/infer"
GET = "GET /v2 HTTP/1.1\r\nHost: duet\r\n"
CHUNKED = f"POST {INFER} HTTP/1.1\r\nHost: duet\r\nTransfer-Encoding: chunked\r\n"
SMUGGLED = request()


def post(*lines: str, body: bytes = BODY, version: str = "1.1", target: str = INFER) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", *lines, "", ""]).encode("latin-1") + body


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


LENGTH = f"Content-Length: {len(BODY)}"
HOST = "Host: duet"

#: Name -> bytes, and the status that refuses them.
REFUSED: dict[str, tuple[bytes, int]] = {
    "length and chunks": (
        post(HOST, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        400,
    ),
    "chunks and length": (
        post(HOST, "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        400,
    ),
    "length twice, the same": (post(HOST, LENGTH, LENGTH), 400),
    "length twice, another": (post(HOST, LENGTH, "Content-Length: 0"), 400),
    "length as a list": (post(HOST, f"{LENGTH}, {len(BODY)}"), 400),
    "length with a sign": (post(HOST, f"Content-Length: +{len(BODY)}"), 400),
    "negative length": (post(HOST, "Content-Length: -1"), 400),
    "length in hexadecimal": (post(HOST, "Content-Length: 0x52"), 400),
    "length with a space before the colon": (post(HOST, f"Content-Length : {len(BODY)}"), 400),
    "length of 30 digits": (post(HOST, f"Content-Length: {'9' * 30}"), 400),
    "empty length": (post(HOST, "Content-Length:"), 400),
    "unknown coding": (post(HOST, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "coding twice": (post(HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400),
    "coding twice, the same": (post(HOST, *["Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n"), 400),
    "gzip, chunked": (post(HOST, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "chunked, identity": (post(HOST, "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), 400),
    "coding behind a vertical tab": (post(HOST, "Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "coding with an underscore": (post(HOST, "Transfer_Encoding: chunked", LENGTH), 400),
    "coding over HTTP/1.0": (post(HOST, "Transfer-Encoding: chunked", version="1.0", body=b"0\r\n\r\n"), 400),
    "coding in quotes": (post(HOST, 'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    "folded header": (post(HOST, LENGTH, "X-A: b\r\n c"), 400),
    "folded coding": (post(HOST, LENGTH, "Transfer-Encoding:\r\n chunked"), 400),
    "first header folded": (b"GET /v2 HTTP/1.1\r\n Host: duet\r\n\r\n", 400),
    "no host": (post(LENGTH), 400),
    "two hosts": (post(HOST, "Host: other", LENGTH), 400),
    "empty host": (post("Host:", LENGTH), 400),
    "host with a path": (post("Host: duet/x", LENGTH), 400),
    "host with a user": (post("Host: a@duet", LENGTH), 400),
    "host with a space": (post("Host: duet other", LENGTH), 400),
    "host with a bad port": (post("Host: duet:80x", LENGTH), 400),
    "another server's address": (post(HOST, LENGTH, target=f"http://evil.example{INFER}"), 400),
    "a file's address": (post(HOST, LENGTH, target="file:///etc/passwd"), 400),
    "proxying": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: duet\r\n\r\n", 400),
    "bare line feeds": (request().replace(b"\r\n", b"\n"), 400),
    "bare carriage return": (post(HOST, "X-A: b\rX-B: c", LENGTH), 400),
    "NUL in a value": (post(HOST, LENGTH, "X-A: b\x00c"), 400),
    "NUL in a name": (post(HOST, LENGTH, "X-\x00A: b"), 400),
    "tab in a name": (post(HOST, LENGTH, "X\t: b"), 400),
    "empty name": (post(HOST, LENGTH, ": b"), 400),
    "name without a colon": (post(HOST, LENGTH, "nonsense"), 400),
    "underscore in a name": (post(HOST, LENGTH, "x_api_key: b"), 400),
    "pin twice": (post(HOST, LENGTH, "x-duet-variant: pytorch", "x-duet-variant: tensorflow"), 400),
    "type twice": (post(HOST, LENGTH, "Content-Type: a/b", "Content-Type: application/json"), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/1.2": (post(HOST, LENGTH, version="1.2"), 400),
    "HTTP/0.9": (b"GET /v2\r\n\r\n", 505),
    "unknown method": (b"HACK /v2 HTTP/1.1\r\nHost: duet\r\n\r\n", 400),
    "space in the path": (b"GET /v2 /models HTTP/1.1\r\nHost: duet\r\n\r\n", 400),
    "two spaces after the method": (request().replace(b"POST /", b"POST  /"), 400),
    "many spaces after the method": (GET.replace("GET /", "GET" + " " * 40 + "/").encode() + b"\r\n", 400),
    "two spaces before an asterisk": (b"OPTIONS  * HTTP/1.1\r\nHost: duet\r\n\r\n", 400),
    "two spaces behind empty lines": (b"\r\n\r\n" + request().replace(b"POST /", b"POST  /"), 400),
    "two spaces and a longer method": (b"PROPFIND  /v2 HTTP/1.1\r\nHost: duet\r\n\r\n", 400),
    "bytes above ASCII in the path": ("GET /v2/\u00e9 HTTP/1.1\r\nHost: duet\r\n\r\n".encode(), 400),
    "TLS where none is spoken": (bytes.fromhex("160301020001000190") + b"\x03" * 64, 400),
    "negative chunk": (CHUNKED.encode() + b"\r\n-5\r\n12345\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED.encode() + b"\r\n0x5\r\n12345\r\n0\r\n\r\n", 400),
    "chunk size that overflows": (CHUNKED.encode() + b"\r\n" + b"f" * 17 + b"\r\n12345\r\n0\r\n\r\n", 400),
    "chunk longer than it says": (CHUNKED.encode() + b"\r\n2\r\n12345\r\n0\r\n\r\n", 400),
    "chunks ended by line feeds": (CHUNKED.encode() + b"\r\n5\n12345\n0\n\n", 400),
    "length in a trailer": (CHUNKED.encode() + b"\r\n0\r\nContent-Length: 5\r\n\r\n", 400),
    "expectation that nobody knows": (post(HOST, LENGTH, "Expect: 200-ok"), 417),
    "path of 3 KB": (post(HOST, LENGTH, target="/v2/models/" + "a" * 3000), 414),
    "query of 3 KB": (post(HOST, LENGTH, target=f"{INFER}?{'a' * 3000}"), 414),
    "101 headers": (post(HOST, LENGTH, *[f"X-{number}: a" for number in range(99)]), 431),
    "a header of 33 KB": (post(HOST, LENGTH, f"X-A: {'a' * 33_000}"), 431),
    "a name of 33 KB": (post(HOST, LENGTH, f"{'a' * 33_000}: a"), 431),
    "200 trailers": (CHUNKED.encode() + b"\r\n0\r\n" + b"".join(b"x-%d: a\r\n" % n for n in range(200)) + b"\r\n", 431),
    "a body of one-byte chunks": (CHUNKED.encode() + b"\r\n" + chunks(*[b" "] * 10_001), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_doubtful_is_refused_and_nothing_behind_it_is_answered(door: Door, name: str) -> None:
    """One answer, and the connection is at its end, so that what follows cannot be taken for a request."""
    data, status = REFUSED[name]
    before = door.predictions
    answer = door.talk(data, request())
    assert statuses(answer) == [status], answer[:300]
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"connection: close" in head
    assert b"x-content-type-options: nosniff" in head
    assert not LEAK.search(answer.partition(b"\r\n\r\n")[2])
    assert door.predictions == before


TWO_SPACES = request().replace(b"POST /", b"POST  /")


@pytest.mark.parametrize("at", range(1, 7))
def test_two_spaces_after_the_method_are_found_in_any_pieces(door: Door, at: int) -> None:
    """llhttp passes over any number of them; so a reader that splits at each would take an empty path."""
    before = door.predictions
    with socket.create_connection(("127.0.0.1", door.port), 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(TWO_SPACES[:at])
        time.sleep(0.03)
        connection.sendall(TWO_SPACES[at:])
        assert statuses(read_answers(connection, 5)) == [400]
    assert door.predictions == before


def test_two_spaces_in_a_later_request_are_found_and_in_a_body_they_are_nothing(door: Door) -> None:
    """The first request is answered, and its body may hold what looks like such a line."""
    pretty = json.dumps({"inputs": json.loads(BODY)["inputs"], "id": "GET  / HTTP/1.1 POST  /"}, indent=2).encode()
    answers = door.talk(request(body=pretty) + request(body=pretty) + TWO_SPACES)
    assert statuses(answers)[:2] == [200, 200]
    assert 200 not in statuses(answers)[2:]
    assert statuses(door.talk(request(body=pretty), GET.encode() + b"Accept:  GET  /\r\n\r\n")) == [200, 200]


def half_closed(door: Door, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", door.port), 10) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


def one_by_one(answers: bytes) -> list[int]:
    """The status of each answer, by its own length: so that one within another would be seen."""
    found: list[int] = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        found += [int(head.split()[1])]
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert (length is None) == (found[-1] == 100), head
        answers = rest[int(length[1]) if length else 0 :]
    return found


HALF_CLOSED = {
    "v2": request(f"/v2/models/{MODEL}@pytorch/infer"),
    "TF Serving": request(f"/v1/models/{MODEL}@pytorch:predict", b'{"instances":[[1.0]]}'),
    "TorchServe": request(f"/predictions/{MODEL}@pytorch", b"[[1.0]]"),
    "chunks": post(HOST, "Transfer-Encoding: chunked", target=f"/v2/models/{MODEL}@pytorch/infer", body=chunks(BODY)),
    "no body": (GET + "\r\n").encode(),
    "HTTP/1.0": post(HOST, LENGTH, version="1.0", target=f"/v2/models/{MODEL}@pytorch/infer"),
    "two in a row": request(f"/v2/models/{MODEL}@pytorch/infer") * 2,
}


@pytest.mark.parametrize("name", HALF_CLOSED)
def test_who_ends_its_side_after_the_request_gets_the_answer(door: Door, name: str) -> None:
    """The whole kind: a client that says "that was my last" (RFC 9112, 9.6) is not one that has gone.

    The server is slow, so that the end has come long before the answer; what is asked meanwhile whether the client is
    still there comes before the answer and never within it.
    """
    door.pytorch.delay_seconds = 0.25
    try:
        answer = half_closed(door, HALF_CLOSED[name])
    finally:
        door.pytorch.delay_seconds = 0
    found = one_by_one(answer)
    assert [status for status in found if status != 100] == [200] * (2 if name == "two in a row" else 1), answer[:300]
    if name == "HTTP/1.0":
        assert 100 not in statuses(answer)


def test_who_ends_its_side_within_a_request_has_no_answer(door: Door) -> None:
    assert half_closed(door, request()[:-10]) == b""
    assert half_closed(door, request()[:20]) == b""


LATE = {
    "v2": (f"/v2/models/{MODEL}/infer", BODY, "x-duet-timeout-ms: 200"),
    "TF Serving": (f"/v1/models/{MODEL}:predict", b'{"instances":[[1.0]]}', "x-duet-timeout-ms: 200"),
    "classify": (f"/v1/models/{MODEL}:classify", b'{"examples":[{"x":1.0}]}', "x-duet-timeout-ms: 200"),
    "TorchServe": (f"/predictions/{MODEL}", b"[[1.0]]", "x-duet-timeout-ms: 200"),
    "v2's own timeout": (
        f"/v2/models/{MODEL}/infer",
        json.dumps({**json.loads(BODY), "parameters": {"timeout": 200_000}}).encode(),
        "x-nothing: 1",
    ),
}


def test_a_deadline_counts_from_the_requests_arrival(door: Door) -> None:
    """The whole kind: whatever the time went by with (receiving, waiting, decoding) is time of the client's."""
    with ExitStack() as stack:
        connections = {}
        for name, (target, body, line) in LATE.items():
            connections[name] = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), 10))
            head = request(target, body, line)
            connections[name].sendall(head[: len(head) - len(body)])
        time.sleep(0.3)
        for name, (_, body, _) in LATE.items():
            connections[name].sendall(body)
        found = {name: statuses(read_answers(connection, 5)) for name, connection in connections.items()}
    # The fake has no signatures for examples: its refusal comes before any deadline.
    expected = {name: [504] for name in LATE} | {"classify": found["classify"]}
    assert found == expected


@pytest.mark.parametrize("variant", ["tensorflow", "pytorch"])
def test_a_timeout_of_centuries_is_a_long_deadline(door: Door, variant: str) -> None:
    """The whole kind: no number of a client's makes a deadline that the next clock cannot hold (gRPC: 292 years)."""
    document = json.loads(BODY)
    for timeout in (2**53 - 1, 2**53 + 1, 2**62, 2**63 - 1):
        body = json.dumps({**document, "parameters": {"timeout": timeout}}).encode()
        answer = door.talk(request(f"/v2/models/{MODEL}@{variant}/infer", body))
        assert statuses(answer) == [200], (timeout, answer[-200:])
    longest = request(f"/v2/models/{MODEL}@{variant}/infer", BODY, "x-duet-timeout-ms: 999999999.999999999")
    assert statuses(door.talk(longest)) == [200]


def test_a_head_that_never_ends_is_cut_off_at_its_limit(door: Door) -> None:
    """34 KB are taken of a header that would be as long as the client likes."""
    sent = 0
    with socket.create_connection(("127.0.0.1", door.port), 10) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: duet\r\nX-A: ")
        try:
            while sent < 4 << 20:
                sent += connection.send(b"a" * 4096)
                time.sleep(0.001)
        except OSError:
            pass
        assert statuses(read_answers(connection, 5)) in ([431], [])
    assert sent < 4 << 20


TRUNCATED = {
    "nothing": b"",
    "half a method": b"PO",
    "half a path": b"POST /v2/mod",
    "half a header": f"POST {INFER} HTTP/1.1\r\nHo".encode(),
    "no body": post(HOST, LENGTH, body=b""),
    "half a body": request()[:-10],
    "half a chunk size": CHUNKED.encode() + b"\r\n5",
    "half a chunk": CHUNKED.encode() + b"\r\n" + b"52\r\n" + BODY[:20],
    "no last chunk": CHUNKED.encode() + b"\r\n" + chunks(BODY)[:-5],
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_what_ends_in_the_middle_never_reaches_a_server(door: Door, name: str) -> None:
    before = door.predictions
    with socket.create_connection(("127.0.0.1", door.port), 5) as connection:
        connection.sendall(TRUNCATED[name])
        time.sleep(0.05)
    assert statuses(door.talk(request("/v2", b"", method="GET"))) == [200]
    assert door.predictions == before


def test_two_requests_in_one_packet_have_two_answers_in_their_order(door: Door) -> None:
    answers = door.talk(
        request(), request("/v2/models/none/infer"), request("/v2", b"", "Connection: close", method="GET")
    )
    assert statuses(answers) == [200, 404, 200]


def test_what_follows_a_whole_request_is_refused_after_its_answer(door: Door) -> None:
    """The garbage has no answer of its own that could be taken for the first one's."""
    answers = door.talk(request() + b"garbage garbage\r\n\r\n")
    assert statuses(answers)[:1] == [200]
    assert statuses(answers)[1:] in ([], [400])
    assert answers.index(b"HTTP/1.1 200") == 0


def test_nothing_is_answered_after_connection_close(door: Door) -> None:
    before = door.predictions
    assert statuses(door.talk(request("/v2", b"", "Connection: close", method="GET"), request())) == [200]
    assert door.predictions == before


def test_a_thousand_pipelined_requests_are_answered_one_by_one(door: Door) -> None:
    answers = door.talk((GET + "\r\n").encode() * 1000, (GET + "Connection: close\r\n\r\n").encode(), seconds=30)
    assert statuses(answers) == [200] * 1001


def test_100_continue_is_sent_before_a_body_that_is_wanted(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), 5) as connection:
        connection.sendall(post(HOST, LENGTH, "Expect: 100-continue", body=b""))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert statuses(read_answers(connection, 5)) == [200]


def test_100_continue_is_not_sent_for_a_body_that_is_too_large(door: Door) -> None:
    answer = door.talk(post(HOST, f"Content-Length: {1 << 40}", "Expect: 100-continue", body=b""))
    assert statuses(answer) == [413]


def test_a_trailer_changes_nothing_of_a_request_that_was_read(door: Door) -> None:
    """It is dropped: a pin that comes after the body would come after the checks, too."""
    trailer = chunks(BODY)[:-2] + b"x-duet-variant: nope\r\nx-duet-timeout-ms: 0\r\n\r\n"
    assert statuses(door.talk(CHUNKED.encode() + b"\r\n" + trailer)) == [200]


def test_chunk_extensions_change_nothing(door: Door) -> None:
    body = b"%x;a=b\r\n%b\r\n0;x\r\n\r\n" % (len(BODY), BODY)
    assert statuses(door.talk(CHUNKED.encode() + b"\r\n" + body)) == [200]


def test_an_upgrade_is_ignored(door: Door) -> None:
    answer = door.talk(
        (GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n").encode()
    )
    assert statuses(answer) == [200]


def test_a_refusal_on_torchserves_path_has_torchserves_shape(door: Door) -> None:
    answer = door.talk(post(HOST, LENGTH, "x_y: 1", target=f"/predictions/{MODEL}"))
    assert re.search(rb'"code":400,"type":"BadRequestException"', answer)


def test_requests_byte_by_byte_are_answered_as_whole_ones(door: Door) -> None:
    assert statuses(door.talk(*[bytes([byte]) for byte in request()])) == [200]


@pytest.mark.parametrize("host", ["duet", "duet:8000", "10.0.0.1", "[::1]:8000", "a_b.example", "DUET.example."])
def test_every_form_of_host_that_there_is_passes(door: Door, host: str) -> None:
    answer = door.talk(f"GET /v2 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert statuses(answer) == [200]


def test_after_a_refusal_slow_clients_are_still_cut_off(door: Door) -> None:
    """A head that is refused while the connections are looked over does not end the looking."""
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", door.port), 5) as connection:
            connection.sendall(post(HOST, LENGTH, "x_y: 1"))
            time.sleep(0.02)
    with socket.create_connection(("127.0.0.1", door.port), 15) as slow:
        slow.sendall(b"GET /v2 HTTP/1.1\r\n")
        assert statuses(read_answers(slow, 15)) == [408]
