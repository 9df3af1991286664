from __future__ import annotations

from tests.gateway.conftest import gateway_with

__all__ = ["gateway_with"]
