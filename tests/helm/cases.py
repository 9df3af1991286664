"""Values that turn each switch of the chart, and each kind of source, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from helm import docs
from tests.helm.chart import CHART

Values = dict[str, Any]

#: What a switch needs beside it.
_BESIDE: dict[str, Values] = {
    "gatewayAPI.httpRoute.enabled": {"gatewayAPI": {"httpRoute": {"parentRefs": [{"name": "public"}]}}},
    "gatewayAPI.grpcRoute.enabled": {"gatewayAPI": {"grpcRoute": {"parentRefs": [{"name": "public"}]}}},
    "monitoring.prometheusRule.enabled": {"parityCheck": {"enabled": True}},
}
_SHA = "0123456789abcdef" * 4
_STORES: dict[str, Values] = {
    "pvc": {"location": "models"},
    "s3": {"location": "s3://bucket/models", "existingSecret": "bucket"},
    "gcs": {"location": "gs://bucket/models/"},
    "http": {"location": "https://example.com/models.tar.gz", "sha256": _SHA},
    "oci": {"location": f"registry.example.com:5000/models@sha256:{_SHA}", "subPath": ""},
}
_LISTED = {"source": "s3", **_STORES["s3"], "allowDigests": f"# ours\n{_SHA}  tensorflow/mlp/1\n\n{_SHA}\n"}
_EXTRA: Values = {
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "extraEnv": [
        {"name": "TZ", "value": "UTC"},
        {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}


def cases() -> Iterator[tuple[str, Values]]:
    yield from _switches()
    for section in ("tfserving", "torchserve"):
        for source, store in _STORES.items():
            yield f"{section}.modelStore.source={source}", {section: {"modelStore": {"source": source, **store}}}
        yield f"{section} of listed artifacts", {section: {"modelStore": {**_LISTED}}}
        yield f"{section} on GPUs", {section: {"gpu": {"count": 4, "runtimeClassName": "nvidia", "type": "NVIDIA-L4"}}}
        pools = {"pools": {"big": {"gpu": {"count": 1}, "models": ["convnet"]}, "main": {"replicaCount": 3}}}
        yield f"{section} in two pools", {section: pools}
        yield f"{section} with extras", {section: _EXTRA}
        metrics = [
            {"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "5"}}}
        ]
        scaling = {"enabled": True, "targetCPUUtilizationPercentage": 0, "metrics": metrics}
        yield f"{section} scaled by another metric", {section: {"autoscaling": scaling}}
    yield "tfserving with a flag", {"tfserving": {"extraArgs": ["--tensorflow_intra_op_parallelism=2"]}}
    yield "torchserve with a line", {"torchserve": {"config": {"job_queue_size": "50"}}}
    yield "gateway with extras", {"gateway": {**_EXTRA, "extraArgs": ["--workers=2"], "preStopSeconds": 5}}
    for kind in ("NodePort", "LoadBalancer"):
        yield f"gateway.service.type={kind}", {"gateway": {"service": {"type": kind, "annotations": {"a": "b"}}}}
    yield (
        "scaled by requests in flight",
        {
            "gateway": {
                "autoscaling": {"enabled": True, "targetInFlight": 64, "behavior": {"scaleDown": {"policies": []}}}
            }
        },
    )
    yield (
        "secrets of one's own",
        {
            "gateway": {"tls": {"existingSecret": "tls"}, "apiKeys": {"existingSecret": "keys"}},
            "torchserve": {"token": {"existingSecret": "token"}},
            "helmTest": {"existingSecret": "key", "models": []},
            "parityCheck": {"enabled": True, "existingSecret": "key", "models": ["mlp"]},
            "imagePullSecrets": [{"name": "registry"}],
        },
    )
    yield (
        "digests",
        {
            section: {"image": {"digest": f"sha256:{_SHA}"}}
            for section in ("gateway", "tfserving", "torchserve", "loadtest")
        },
    )
    yield (
        "names of one's own",
        {
            "nameOverride": "serving",
            "fullnameOverride": "the-one",
            "commonLabels": {"team": "x"},
            "serviceAccount": {"name": "who", "annotations": {"cloud": "role"}},
        },
    )
    yield (
        "a load test elsewhere",
        {"loadtest": {"enabled": True, "workers": 5, "results": {"existingClaim": "results"}, "args": ["--model=mlp"]}},
    )
    yield "a load test of a class", {"loadtest": {"enabled": True, "results": {"storageClassName": "fast"}}}
    yield "an ingress with TLS", {"ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"}}
    yield (
        "a server elsewhere",
        {
            "tfserving": {"enabled": False},
            "gateway": {"config": {"servers": {"tensorflow": {"kind": "tfserving", "endpoint": "10.0.0.9:8500"}}}},
            "networkPolicy": {
                "gatewayEgress": [
                    {"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}], "ports": [{"port": 8500, "protocol": "TCP"}]}
                ]
            },
        },
    )
    yield "other ports", {"gateway": {"config": {"http": {"port": 9000}, "grpc": {"port": 9001}}}}
    yield (
        "more objects",
        {
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "more", "labels": _LABELS},
                    "data": {"a": "b"},
                }
            ]
        },
    )


_LABELS = {"app.kubernetes.io/component": "all", "release": "{{ .Release.Name }}"}


def _switches() -> Iterator[tuple[str, Values]]:
    for leaf in docs.leaves(docs.read(CHART / "values.yaml")):
        if not isinstance(leaf.default, bool):
            continue
        name = ".".join(leaf.path)
        values: Values = {}
        place = values
        for key in leaf.path[:-1]:
            place = place.setdefault(key, {})
        place[leaf.path[-1]] = not leaf.default
        yield f"{name}={str(not leaf.default).lower()}", merged(_BESIDE.get(name, {}), values)


def merged(one: Values, other: Values) -> Values:
    result = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
