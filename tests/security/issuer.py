"""An issuer of tokens: its keys, what it signs, and forgeries of that."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example.com", "duet"
NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(NOW) + 300, "iat": int(NOW)}

_ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "weak": "RS256", "other": "RS256", "p384": "ES384"}


@cache
def private(name: str) -> Any:
    if name in ("ec", "p384"):
        return ec.generate_private_key(ec.SECP256R1() if name == "ec" else ec.SECP384R1())
    if name == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 1024 if name == "weak" else 2048)


def jwk(name: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.get_algorithm_by_name(_ALGORITHMS[name])
    document = json.loads(algorithm.to_jwk(private(name).public_key()))
    return {**document, "kid": name, "use": "sig", **more}


def jwks(*names: str) -> bytes:
    return json.dumps({"keys": [jwk(name) for name in names or ("rsa", "ec", "ed", "weak", "p384")]}).encode()


def pem(name: str) -> bytes:
    public: bytes = (
        private(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def token(key: str = "rsa", *, header: dict[str, Any] | None = None, without: str = "", **claims: Any) -> str:
    content = {name: value for name, value in {**CLAIMS, **claims}.items() if name != without}
    headers = {"alg": _ALGORITHMS[key], "typ": "JWT", "kid": key, **(header or {})}
    signed = f"{encoded(headers)}.{encoded(content)}"
    # By hand: PyJWT's `encode` would refuse what it should be shown here.
    algorithm = jwt.get_algorithm_by_name(_ALGORITHMS[key])
    return f"{signed}.{encoded(algorithm.sign(signed.encode(), private(key)))}"


def encoded(part: bytes | dict[str, Any]) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes = b"", signature: bytes = b"") -> str:
    return f"{encoded(header)}.{encoded(claims or CLAIMS)}.{encoded(signature)}"


def by_hmac(secret: bytes, algorithm: str = "HS256", **header: Any) -> str:
    """Signed with what everybody knows: the public key taken for a secret."""
    signed = f"{encoded({'alg': algorithm, 'typ': 'JWT', 'kid': 'rsa', **header})}.{encoded(CLAIMS)}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def resigned(change: Callable[[list[str]], list[str]]) -> str:
    """A good token whose parts were changed after it was signed."""
    return ".".join(change(token().split(".")))


def forgeries() -> dict[str, str]:
    """Every one must be refused."""
    good = token()
    der = (
        private("rsa")
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    later = {**CLAIMS, "exp": int(NOW) + 10**6}
    return {
        "no algorithm": raw({"alg": "none", "typ": "JWT"}),
        "no algorithm, oddly written": raw({"alg": "nOnE", "typ": "JWT"}),
        "no algorithm, with a key id": raw({"alg": "none", "kid": "rsa"}, b"", b"x"),
        "empty algorithm": raw({"alg": ""}),
        "algorithm of another type": raw({"alg": ["RS256"]}),
        "algorithm is missing": raw({"typ": "JWT", "kid": "rsa"}),
        "public key as HMAC's secret": by_hmac(pem("rsa")),
        "public key as HMAC's secret, DER": by_hmac(der),
        "public key as HMAC's secret, called RS256": by_hmac(pem("rsa"), "RS256"),
        "empty HMAC secret": by_hmac(b""),
        "key brought along": raw({"alg": "RS256", "jwk": jwk("other")}, b"", b"x"),
        "signed by a key brought along": token("other", header={"jwk": jwk("other"), "kid": "rsa"}),
        "address of keys brought along": token("other", header={"jku": "https://evil.example.com/", "kid": "rsa"}),
        "certificate brought along": token("other", header={"x5u": "https://evil.example.com/", "x5c": ["AAAA"]}),
        "another's key, our id": token("other", header={"kid": "rsa"}),
        "another algorithm's key id": token("ec", header={"kid": "rsa"}),
        "unknown key id": token(header={"kid": "no such"}),
        "key id as a path": token(header={"kid": "../../../../dev/null"}),
        "key id as a query": token(header={"kid": "x' UNION SELECT 'key' --"}),
        "key id of another type": raw({"alg": "RS256", "kid": ["rsa"]}, b"", b"x"),
        "key id of a kilobyte": token(header={"kid": "k" * 1024}),
        "no key id, another's key": token("other", header={"kid": None}),
        "an algorithm that is not taken": token("p384"),
        "a key too short": token("weak"),
        "critical extension": token(header={"crit": ["exp"]}),
        "unencoded payload": raw({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]}, b"x", b"x"),
        "another kind of token": token(header={"typ": "dpop+jwt"}),
        "expired": token(exp=int(NOW) - 61),
        "expired long ago": token(exp=0),
        "no expiry": token(without="exp"),
        "expiry as text": token(exp=str(int(NOW) + 300)),
        "expiry is true": token(exp=True),
        "expiry is null": token(exp=None),
        "expiry is not a number": resigned(lambda p: [p[0], encoded(b'{"exp": NaN}'), p[2]]),
        "expiry before time began": token(exp=-(10**30)),
        "begins later": token(nbf=int(NOW) + 61),
        "issued later": token(iat=int(NOW) + 61),
        "another issuer": token(iss="https://evil.example.com"),
        "our issuer and more": token(iss=ISSUER + ".evil.example.com"),
        "a list of issuers": token(iss=[ISSUER]),
        "no issuer": token(without="iss"),
        "another audience": token(aud="someone else"),
        "no audience": token(without="aud"),
        "empty audience": token(aud=[]),
        "no subject": token(without="sub"),
        "empty subject": token(sub=""),
        "subject of two lines": token(sub="alice\nbob"),
        "subject of a kilobyte": token(sub="a" * 1024),
        "subject is a number": raw({"alg": "RS256", "kid": "rsa"}, {**CLAIMS, "sub": 1}, b"x"),
        "claims changed": resigned(lambda p: [p[0], encoded(later), p[2]]),
        "header changed": resigned(lambda p: [encoded({"alg": "ES256", "kid": "ec"}), p[1], p[2]]),
        "signature missing": resigned(lambda p: [p[0], p[1], ""]),
        "signature cut": good[:-8],
        "signature of zeros": resigned(lambda p: [p[0], p[1], encoded(bytes(256))]),
        "zeros for ES256 (CVE-2022-21449)": raw({"alg": "ES256", "kid": "ec"}, b"", bytes(64)),
        "two parts": good.rsplit(".", 1)[0],
        "four parts": good + ".x",
        "five parts, as if encrypted": raw({"alg": "dir", "enc": "A256GCM"}) + ".x.x",
        "no base64": "!!!.???.***",
        "no JSON": raw(b"{", b"{", b"x"),
        "JSON, but no object": raw(b"[]", b"[]", b"x"),
        "nested a thousand deep": raw(b"[" * 1000 + b"]" * 1000, b"x", b"x"),
        "claims nested a thousand deep": raw({"alg": "RS256", "kid": "rsa"}, b"[" * 1000 + b"]" * 1000, b"x"),
        "longer than eight kilobytes": token(more="x" * 8192),
        "not ASCII": good[:-1] + "\N{CYRILLIC SMALL LETTER A}",
        "nothing": "",
        "dots": "..",
        "a space in it": good[:20] + " " + good[20:],
    }
