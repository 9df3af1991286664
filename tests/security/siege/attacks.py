"""Every attack by its name."""

from __future__ import annotations

from tests.security.siege.attack import Attack
from tests.security.siege.attacks_grpc import GRPC
from tests.security.siege.attacks_http import HTTP

ATTACKS: dict[str, Attack] = {**HTTP, **GRPC}
