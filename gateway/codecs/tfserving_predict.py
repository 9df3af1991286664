"""A predict body over REST by the signature that it names: one step, which can be taken in another process."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.codecs import fitting, tfserving_rest
from gateway.codecs import tfserving_servables as servables
from gateway.codecs.tfserving_rest import PredictBody
from gateway.types import VersionMetadata


@dataclass(frozen=True, slots=True)
class Predict:
    """``rows``: whether the body is in rows, which is then how its answer is written."""

    signature_name: str
    fitted: fitting.Fitted
    rows: bool


def fit(body: PredictBody, version: VersionMetadata) -> Predict:
    """Raises InvalidArgument for another signature than ``version`` has, and for inputs that are none of it."""
    signature = servables.signature(version, body.signature_name, tfserving_rest.unknown_signature)
    fitted = fitting.fit_all(body.inputs(signature), signature, fitting.TFSERVING)
    return Predict(body.signature_name, fitted, body.rows)


def lean(version: VersionMetadata) -> VersionMetadata:
    """Without the signatures as their server gave them: default values may be megabytes, and go with every body."""
    signatures = {name: replace(signature, native=b"") for name, signature in version.signatures.items()}
    return replace(version, signatures=signatures)


def decode(body: bytes, version: VersionMetadata) -> Predict:
    """Both steps. Raises what they raise."""
    return fit(tfserving_rest.decode_predict(body), version)
