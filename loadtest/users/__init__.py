"""Locust's users: a class a front. Bodies are written once, and are the same bytes for both variants."""

from loadtest.users.fronts import (
    TFServingGrpc,
    TFServingRest,
    TorchServeGrpc,
    TorchServeRest,
    V2Grpc,
    V2RestBinary,
    V2RestJson,
)

USERS = (V2RestJson, V2RestBinary, V2Grpc, TFServingRest, TFServingGrpc, TorchServeRest, TorchServeGrpc)
