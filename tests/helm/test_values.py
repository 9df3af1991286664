"""A wrong value stops `helm install` with a sentence that names the key and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import Refused, render

Values = dict[str, Any]


def at(path: str, value: Any) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


# What the schema refuses: the key as Helm writes it, and what it says of it.
BY_SCHEMA: list[tuple[str, Any, str, str]] = [
    ("gateway.replicaCount", "two", "/gateway/replicaCount", "want integer"),
    ("gateway.replicaCount", -1, "/gateway/replicaCount", "want 0"),
    ("gateway.replicas", 2, "/gateway", "'replicas' not allowed"),
    ("gatway", {}, "", "'gatway' not allowed"),
    ("gateway.image.pullPolicy", "Sometimes", "/gateway/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"),
    ("gateway.image.repository", "Duet", "/gateway/image/repository", "does not match pattern"),
    ("gateway.image.digest", "sha256:12", "/gateway/image/digest", "sha256:[0-9a-f]{64}"),
    ("gateway.service.type", "ExternalName", "/gateway/service/type", "'ClusterIP', 'NodePort', 'LoadBalancer'"),
    ("gateway.service.httpPort", 70000, "/gateway/service/httpPort", "want 65,535"),
    ("gateway.livenessProbe.httpGet", {}, "/gateway/livenessProbe", "'httpGet' not allowed"),
    ("gateway.preStopSeconds", 0, "/gateway/preStopSeconds", "want 1"),
    ("gateway.resources.request", {}, "/gateway/resources", "'request' not allowed"),
    ("gateway.podDisruptionBudget.maxUnavailable", 0, "maxUnavailable", "want 1"),
    ("gateway.podDisruptionBudget.maxUnavailable", "10", "maxUnavailable", "%$"),
    ("gateway.keda.serverAddress", "prometheus:9090", "/gateway/keda/serverAddress", "^https?://"),
    ("models.bad/name", {"variants": ["pytorch"]}, "'bad/name'", "does not match pattern"),
    ("models.mlp.variants", ["jax"], "/models/mlp/variants/0", "'tensorflow', 'pytorch'"),
    ("models.mlp.versions", [0], "/models/mlp/versions/0", "want 1"),
    ("models.mlp.rows", "perhaps", "/models/mlp/rows", "'independent', 'dependent', 'unknown'"),
    ("models.mlp.rows", {"jax": "independent"}, "/models/mlp/rows", "'jax' not allowed"),
    ("models.mlp.rows", {"pytorch": True}, "/models/mlp/rows/pytorch", "'independent', 'dependent', 'unknown'"),
    ("tfserving.pools.Main", {}, "'Main'", "does not match pattern"),
    ("tfserving.pools.main.replicas", 2, "/tfserving/pools/main", "'replicas' not allowed"),
    ("tfserving.pools.main.gpu.count", 0.5, "/tfserving/pools/main/gpu/count", "want integer"),
    (
        "tfserving.pools.main.modelStore.source",
        "nfs",
        "/modelStore/source",
        "'baked', 'pvc', 's3', 'gcs', 'http', 'oci'",
    ),
    ("tfserving.modelStore.size", "10GB", "/tfserving/modelStore/size", "does not match pattern"),
    ("torchserve.javaHeap", "1Gi", "/torchserve/javaHeap", "[mg]"),
    ("torchserve.workers.perGpu", 0, "/torchserve/workers/perGpu", "want 1"),
    ("downloads.s3", "amazon/aws-cli", "/downloads/s3", "does not match pattern"),
    ("networkPolicy.clients", [], "/networkPolicy/clients", "minItems"),
    ("networkPolicy.clients", [{}], "/networkPolicy/clients/0", "minProperties"),
    ("ingress.host", "10.0.0.1:80", "/ingress/host", "does not match pattern"),
    ("monitoring.interval", "often", "/monitoring/interval", "(ms|s|m)"),
    ("monitoring.prometheusRule.latencySeconds", 0.3, "latencySeconds", "0.125, 0.25, 0.5"),
    ("loadtest.runTime", "5 minutes", "/loadtest/runTime", "[hms]"),
    ("loadtest.scenario", "../x.py", "/loadtest/scenario", "does not match pattern"),
    ("extraObjects", [{"kind": "ConfigMap"}], "/extraObjects/0", "'apiVersion'"),
]

_HTTP = {"source": "http", "location": "https://example.com/a.tar.gz"}
# What it cannot see: the sentence.
BY_SENTENCE: list[tuple[Values, str]] = [
    (
        {"tfserving": {"enabled": False}, "torchserve": {"enabled": False}},
        "tfserving.enabled and torchserve.enabled are both false: enable one",
    ),
    (
        {"gateway": {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}},
        "gateway.autoscaling.enabled and gateway.keda.enabled are both true",
    ),
    (at("gateway.autoscaling.minReplicas", 11), "gateway.autoscaling.minReplicas must not be above maxReplicas (10)"),
    (at("gateway.keda.minReplicas", 11), "gateway.keda.minReplicas must not be above maxReplicas (10)"),
    (
        at("gateway.autoscaling", {"enabled": True, "targetCPUUtilizationPercentage": 0}),
        "targetCPUUtilizationPercentage and targetInFlight are both 0",
    ),
    (at("gateway.terminationGracePeriodSeconds", 38), "gateway.terminationGracePeriodSeconds must be above 38"),
    (at("gateway.config.http.port", 8002), "http.port, grpc.port and admin.port must be three different ports"),
    (at("gateway.extraArgs", ["--config=x"]), "put the settings into gateway.config"),
    (at("gateway.extraEnv", [{"name": "API_KEY", "value": "x"}]), "give it by valueFrom.secretKeyRef"),
    (at("gateway.resources.requests.cpu", None), "gateway.resources.requests.cpu is missing"),
    (at("gateway.resources.limits.memory", "1 GB"), "gateway.resources.limits.memory must be a quantity"),
    (
        at("models.mlp", {"variants": ["pytorch"], "default": "tensorflow"}),
        "models.mlp.default: tensorflow is not among",
    ),
    (
        at("tfserving.pools.main.models", ["nope"]),
        "tfserving.pools.main.models: nope is not in models; name one of convnet",
    ),
    (
        {"models": {"mlp": {"variants": ["pytorch"]}}, "tfserving": {"models": ["mlp"]}},
        "tfserving.pools.main.models: mlp has no variant tensorflow",
    ),
    (at("tfserving.pools.main.terminationGracePeriodSeconds", 35), "must be above drainSeconds (35)"),
    (
        at("torchserve.pools.main.autoscaling.minReplicas", 9),
        "autoscaling.minReplicas must not be above maxReplicas (4)",
    ),
    (
        at("tfserving.autoscaling", {"enabled": True, "targetCPUUtilizationPercentage": 0}),
        "targetCPUUtilizationPercentage is 0 and metrics is empty",
    ),
    (at("tfserving.extraArgs", ["--port=1"]), "tfserving.pools.main.extraArgs: --port is the chart's"),
    (at("torchserve.config", {"management_address": "http://0.0.0.0:8081"}), "management_address is the chart's"),
    (at("torchserve.config", {"disable_token_authorization": "true"}), "disable_token_authorization is the chart's"),
    (at("tfserving.modelStore.location", "models"), "location is set but source is baked"),
    (at("tfserving.modelStore.source", "pvc"), "location is empty: source pvc needs one"),
    (at("tfserving.modelStore", {"source": "s3", "location": "b"}), "must begin with s3://"),
    (at("tfserving.modelStore", {"source": "gcs", "location": "b"}), "must begin with gs://"),
    (at("tfserving.modelStore", {"source": "http", "location": "http://x"}), "must begin with https://"),
    (at("tfserving.modelStore", _HTTP), "sha256 is empty"),
    (at("torchserve.modelStore", {"source": "oci", "location": "image"}), "an image with a tag or a digest"),
    (at("torchserve.modelStore", {"source": "oci", "location": "image:latest"}), "the tag latest is refused"),
    (at("tfserving.modelStore.allowDigests", "0" * 64), "needs a source that the pod copies from"),
    (
        at("torchserve.modelStore", {"source": "s3", "location": "s3://b", "allowDigests": "mlp-1.mar"}),
        'modelStore.allowDigests: "mlp-1.mar" is no digest',
    ),
    (at("tfserving.resources.limits", {"nvidia.com/gpu": 1}), "set gpu.count and gpu.resource"),
    (at("downloads.http", "curl:latest"), "downloads.http: the tag latest is refused"),
    (at("gatewayAPI.httpRoute.enabled", True), "gatewayAPI.httpRoute.parentRefs is empty: name at least one Gateway"),
    (at("gatewayAPI.grpcRoute.enabled", True), "gatewayAPI.grpcRoute.parentRefs is empty: name at least one Gateway"),
    (at("helmTest.models", ["nope"]), "helmTest.models: nope is not in models"),
    (at("parityCheck", {"enabled": True, "models": ["nope"]}), "parityCheck.models: nope is not in models"),
    (
        {"parityCheck": {"enabled": True}, "tfserving": {"enabled": False}},
        "parityCheck.enabled: no model has both variants",
    ),
]


def refusal(values: Values) -> str:
    with pytest.raises(Refused) as caught:
        render(values=values)
    return str(caught.value)


@pytest.mark.parametrize(("path", "value", "key", "allowed"), BY_SCHEMA)
def test_the_schema_names_the_key_and_what_is_allowed(path: str, value: Any, key: str, allowed: str) -> None:
    words = refusal(at(path, value))
    lines = [line for line in words.splitlines() if key in line and line.strip().startswith("- at")]
    assert any(allowed in line for line in lines), words


@pytest.mark.parametrize(
    ("values", "sentence"), BY_SENTENCE, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_a_combination_that_cannot_work_stops_with_a_sentence(values: Values, sentence: str) -> None:
    words = refusal(values)
    assert words.count("execution error") == 1, words
    assert sentence in words
