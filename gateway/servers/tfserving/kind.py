from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.servers.base import Server, ServerAddress, ServerKind
from gateway.servers.tfserving.settings import TFServingSettings

if TYPE_CHECKING:
    from gateway.servers.faults import Faults


class TFServingKind(ServerKind[TFServingSettings]):
    """TensorFlow Serving, over gRPC."""

    name = "tfserving"
    title = "TensorFlow Serving"
    settings = TFServingSettings
    may_be_hedged = True

    def connect(self, settings: TFServingSettings, endpoint: ServerAddress) -> Server:
        from gateway.servers.tfserving.client import TFServing
        from gateway.servers.tfserving.files import BatchingParametersFile

        path, setting = settings.batching_parameters_file, f"servers.{endpoint.variant}.batching_parameters_file"
        return TFServing(
            endpoint.authority,
            variant=endpoint.variant,
            model_config_file=settings.model_config_file,
            batching_parameters=BatchingParametersFile(path, setting=setting) if path else None,
            tls=endpoint.tls,
        )

    def faults(self) -> Faults:
        from gateway.servers.tfserving.faults import TFSERVING

        return TFSERVING
