"""Grants: what they let through, and that nothing behind them is ever asked without one."""

from __future__ import annotations

import asyncio
import re
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.modelref import ModelRef
from gateway.errors import NotFound, UnknownModel
from gateway.security.access import ACCESS, NOBODY, Access, Identity
from gateway.security.certificates import Kind, Name, Names, of_auth_context, of_scope
from gateway.security.gate import Allowance, Callers
from gateway.security.grants import GrantError, Grants, Verb
from gateway.security.guard import Guard
from gateway.security.ledger import Alone
from gateway.security.quotas import Quotas
from gateway.security.settings import AuthSettings, fault
from tests.fakes.doubling import Doubling, ask
from tests.gateway.test_process import run

THERE = ("a", "ab", "abc", "b", "a.b", "A")
#: Those, names that no server has, and what clients make up.
NAMES = st.sampled_from([*THERE, "c", "abcd", "", "*", "?", "a*", "a\n", "[a]", "__class__"])
PATTERNS = st.text("ab.*?", min_size=1, max_size=4)
VERBS = st.sets(st.sampled_from(list(Verb)), min_size=1)
ENTRIES = st.builds(lambda verbs, pattern: f"{','.join(map(str, verbs))}:{pattern}", VERBS, PATTERNS)
NO_GRANT = ("", "predict", "predict:", ":*", "fly:*", "predict,:*", "predict:a b", "predict:a:b")


def fits(pattern: str, name: str) -> bool:
    """Said again, character by character: `*` is any text, `?` one character, all else itself."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and fits(pattern[1:], name[1:])


def granted(entries: list[str], verb: Verb, model: str) -> bool:
    split = (entry.split(":") for entry in entries)
    return any(str(verb) in verbs.split(",") and fits(pattern, model) for verbs, pattern in split)


@settings(deadline=None)
@given(entries=st.lists(ENTRIES, max_size=4), verb=st.sampled_from(list(Verb)), model=NAMES)
def test_a_grant_holds_for_its_verbs_and_its_pattern(entries: list[str], verb: Verb, model: str) -> None:
    """Twice, since the second answer is remembered."""
    grants = Grants(entries)
    assert grants.allow(verb, model) == granted(entries, verb, model)
    assert grants.allow(verb, model) == granted(entries, verb, model)


class Watched(Doubling):
    """Keeps what it was asked about; a server, and what resolves names to it."""

    def __init__(self) -> None:
        super().__init__(seconds=0)
        self.told: list[str] = []

    def resolve(self, ref: ModelRef) -> Any:
        self.told.append(ref.model)

    def describe(self, ref: ModelRef) -> Any:
        self.told.append(ref.model)


def guarded(server: Watched) -> Guard:
    return Guard(server, router=server, names=lambda: THERE, quotas=Quotas(Alone()))


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(ENTRIES, max_size=3),
    verb=st.sampled_from(list(Verb)),
    calls=st.lists(st.tuples(st.sampled_from(["infer", "describe", "resolve", "pinned"]), NAMES), max_size=6),
    shown=st.booleans(),
)
@example(
    entries=["metadata:*"], verb=Verb.METADATA, calls=[("infer", "a"), ("describe", "a"), ("resolve", "a")], shown=True
)
@example(
    entries=["predict:*"], verb=Verb.METADATA, calls=[("infer", "a"), ("describe", "a"), ("resolve", "a")], shown=True
)
def test_no_server_is_asked_without_a_grant(
    entries: list[str], verb: Verb, calls: list[tuple[str, str]], shown: bool
) -> None:
    """Whatever is called, of whatever model, by whomever; not even where a front forgot to ask who calls."""
    server = Watched()
    guard = guarded(server)

    async def one(kind: str, model: str) -> bool:
        if shown:
            ACCESS.set(Access(Identity("k", "k", "key", Grants(entries)), verb))
        before = len(server.asked) + len(server.told)
        try:
            if kind == "infer":
                await guard.infer(with_model(model))
            elif kind == "describe":
                guard.describe(ModelRef(model))
            else:
                guard.resolve(ModelRef(model, "v" if kind == "pinned" else None))
        except NotFound:
            pass
        return len(server.asked) + len(server.told) > before

    for kind, model in calls:
        needed = Verb.PREDICT if kind == "infer" else verb
        may = shown and model in THERE and granted(entries, needed, model)
        assert copy_context().run(asyncio.run, one(kind, model)) == may, (kind, model)


def with_model(model: str) -> Any:
    return replace(ask(1.0), model=model)


def test_the_refusal_names_what_may_be_read_and_nothing_else() -> None:
    guard = guarded(Watched())

    async def text() -> str:
        ACCESS.set(Access(Identity("k", "k", "key", Grants(["metadata:a*"]))))
        with pytest.raises(UnknownModel) as caught:
            await guard.infer(with_model("b"))
        return caught.value.message

    assert asyncio.run(text()) == "unknown model 'b'; the models are a, a.b, ab, abc"


def test_nobody_is_granted_anything() -> None:
    assert not any(NOBODY.grants.allow(verb, model) for verb in Verb for model in THERE)


def test_made_up_names_do_not_fill_the_memory() -> None:
    grants = Grants(["predict:*"])
    for number in range(20_000):
        grants.allow(Verb.PREDICT, f"m{number}")
    assert len(grants._known) <= 4096


@pytest.mark.parametrize("entry", NO_GRANT)
def test_what_is_no_grant_says_how_one_is_written(entry: str) -> None:
    with pytest.raises(GrantError, match=re.escape("write verbs and models, such as predict,metadata:convnet*")):
        Grants([entry])


SPIFFE, HOST, MAIL, ADDRESS = "spiffe://prod/a", "a.example.com", "x@y.example", "10.0.0.1"


def both(common: str, *alternatives: x509.GeneralName) -> tuple[Names, Names]:
    """The names of one certificate as they come over REST and over gRPC."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if alternatives:
        built = built.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = built.sign(key, SHA256())
    pem, der = (certificate.public_bytes(encoding) for encoding in (Encoding.PEM, Encoding.DER))
    context = {
        "transport_security_type": [b"ssl"],
        "x509_pem_cert": [pem],
        # As gRPC gives them: of whatever kind.
        "x509_subject_alternative_name": [str(one.value).encode() for one in alternatives],
        "x509_common_name": [common.encode()],
    }
    assert of_auth_context({**context, "transport_security_type": [b"insecure"]}) == ()
    return of_scope({"extensions": {"tls": {"client_cert": der}}}), of_auth_context(context)


def test_certificates_name_their_bearers() -> None:
    """URIs first, then hosts, then the common name, over REST and gRPC alike; e-mail and IP addresses name nobody."""
    over_rest, over_grpc = both(
        "alice",
        x509.DNSName(HOST),
        x509.UniformResourceIdentifier(SPIFFE),
        x509.RFC822Name(MAIL),
        x509.IPAddress(ip_address(ADDRESS)),
    )
    assert over_rest == over_grpc == (Name(Kind.URI, SPIFFE), Name(Kind.HOST, HOST), Name(Kind.COMMON, "alice"))
    assert both("bob") == ((Name(Kind.COMMON, "bob"),),) * 2
    for scope in ({}, {"extensions": {}}, {"extensions": {"tls": {}}}, {"extensions": {"tls": {"client_cert": None}}}):
        assert of_scope(scope) == ()
    assert of_scope({"extensions": {"tls": {"client_cert": b"no certificate"}}}) == ()


@pytest.mark.parametrize(
    "impostor",
    [
        Name(Kind.COMMON, SPIFFE),
        Name(Kind.HOST, SPIFFE),
    ],
    ids=["a common name", "a host"],
)
def test_names_fit_patterns_of_their_own_kind(impostor: Name) -> None:
    """The kind: a name counts as what the certificate says that it is, whatever its text looks like."""
    prod = Allowance("spiffe://prod/*", Grants(["predict:*"]), None)
    hosts = Allowance("*.example.com", Grants(["metadata:*"]), None)
    callers = Callers("certificate", [prod, hosts])
    assert callers.first((impostor,)).grants.entries == ()
    assert callers.first((Name(Kind.URI, SPIFFE),)).grants.entries == ("predict:*",)
    assert callers.first((Name(Kind.URI, "x://a.example.com"),)).grants.entries == ()
    assert callers.first((Name(Kind.HOST, HOST),)).grants.entries == ("metadata:*",)
    # Of one text and two kinds: two callers, with quotas and audit lines of their own.
    assert callers.first((Name(Kind.COMMON, HOST),)).id != callers.first((Name(Kind.HOST, HOST),)).id


def test_the_first_caller_that_fits_a_name_counts() -> None:
    allowances = [
        Allowance("spiffe://prod/*", Grants(["predict:*"]), None),
        Allowance("*", Grants(["metadata:*"]), None),
    ]
    callers = Callers("certificate", allowances)
    uri, other, third = Name(Kind.URI, SPIFFE), Name(Kind.COMMON, "a"), Name(Kind.COMMON, "b")
    assert callers.identity(uri).grants.entries == ("predict:*",)
    assert callers.identity(Name(Kind.COMMON, "alice")).grants.entries == ("metadata:*",)
    assert callers.first((other, uri)).name == "a"
    strict = Callers("certificate", allowances[:1])
    assert strict.first((other, uri)).name == SPIFFE
    assert strict.first((other, third)).grants.entries == ()


@pytest.mark.parametrize(
    ("auth", "host", "says"),
    [
        (None, "0.0.0.0", "0.0.0.0 is open to others; set auth: {keys: "),
        (None, "::", ":: is open to others"),
        (None, "10.0.0.1", "10.0.0.1 is open to others"),
        (None, "gateway.example.com", "is open to others"),
        (None, "127.0.0.1", "nothing says who may call; set auth: {keys: "),
        ({"mode": "off"}, "0.0.0.0", "mode is off, but 0.0.0.0 is open to others"),
        ({"mode": False}, "::1", None),
        ({"mode": "off"}, "localhost", None),
        ({"mode": "off", "allow_public": True}, "0.0.0.0", None),
        ({"keys": {"file": "k", "pepper": "p"}}, "0.0.0.0", None),
    ],
)
def test_a_gateway_is_open_only_where_that_was_said(auth: Any, host: str, says: str | None) -> None:
    found = fault(AuthSettings.model_validate(auth) if auth is not None else None, ("127.0.0.1", host))
    assert (found is None) == (says is None)
    if found is not None:
        assert says is not None
        assert says in found
        assert "\n" not in found


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ("{}", "nobody could call"),
        ("{mode: maybe}", "mode"),
        ("{certificates: true, callers: [{grants: ['predict:*']}]}", "name a token or a certificate"),
        ("{tokens: {issuer: 'http://example.com', audience: a}}", "keys come over https"),
        ("{tokens: {issuer: me, audience: a}}", "say in jwks where its keys are"),
        ("{tokens: {issuer: me, audience: a, jwks: k, algorithms: [HS256]}}", "algorithms"),
        ("{tokens: {issuer: me, audience: a, jwks: k, algorithms: [none]}}", "algorithms"),
        ("{keys: {file: k, pepper: p}, callers: [{token: a, grants: ['fly:*']}]}", "is no grant"),
        ("{keys: {file: nowhere, pepper: p}}", "auth.keys: "),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(tmp_path: Path, auth: str, says: str) -> None:
    path = tmp_path / "duet.yaml"
    server = "servers: {t: {kind: tfserving, endpoint: '127.0.0.1:1'}}\n"
    ports = "".join(f"{name}: {{port: 0}}\n" for name in ("http", "grpc", "admin"))
    path.write_text(f"{server}{ports}auth: {auth}\n")
    result = run("--config", str(path))
    assert result.returncode == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_unconfigured_gateway_on_a_public_address_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "duet.yaml"
    path.write_text("servers: {t: {kind: tfserving, endpoint: '127.0.0.1:1'}}\nhttp: {host: 0.0.0.0, port: 0}\n")
    result = run("--config", str(path))
    assert result.returncode == 2
    assert result.stderr.strip() == (
        f"{path}: auth: 0.0.0.0 is open to others; set auth: {{keys: {{file: keys.json, pepper: pepper}}}} "
        "and make a key with `python -m gateway keys make`"
    )
