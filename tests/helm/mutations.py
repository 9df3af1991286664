"""``make chart-mutations``: breaks the chart's promises one at a time, in a copy, and shows that each is noticed.

A mutation is a change of one place in a template. It counts as noticed only where the very promise that it breaks
fails; the chart as it is must keep them all.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.helm.chart import APIS, CHART, EXAMPLES, Refused, Rendering, render
from tests.helm.promised import PAIRS, PROMISES

_ALL_ON: dict[str, Any] = {
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule")},
    "gateway": {"autoscaling": {"enabled": True}},
    "loadtest": {"enabled": True},
    "parityCheck": {"enabled": True},
}


@dataclass(frozen=True)
class Mutation:
    promise: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "selectors_never_hold_what_may_change",
        "tfserving-deployment.yaml",
        '"pool" $name) | nindent 6 }}\n  strategy:',
        '"pool" $name) | nindent 6 }}\n      helm.sh/chart: {{ include "duet.chart" $ }}\n  strategy:',
    ),
    Mutation(
        "selectors_find_their_pods_and_no_others",
        "gateway-pdb.yaml",
        '"component" "gateway") | nindent 6',
        '"component" "gatway") | nindent 6',
    ),
    Mutation(
        "every_named_port_exists_where_it_is_used",
        "gateway-deployment.yaml",
        "httpGet: {path: /readyz, port: admin}",
        "httpGet: {path: /readyz, port: metrics}",
    ),
    Mutation("monitors_scrape_ports_that_exist", "tfserving-podmonitor.yaml", "port: metrics", "port: http"),
    Mutation(
        "what_operators_need_is_in_no_service_of_clients",
        "gateway-service.yaml",
        "    - {name: grpc,",
        "    - {name: admin, port: 8002, targetPort: admin}\n    - {name: grpc,",
    ),
    Mutation("servers_are_found_one_by_one", "torchserve-service.yaml", "  clusterIP: None\n", ""),
    Mutation(
        "images_have_a_version",
        "_helpers.tpl",
        ":{{ default .tag .image.tag }}",
        "{{ with .image.tag }}:{{ . }}{{ end }}",
    ),
    Mutation(
        "every_container_states_requests_and_limits",
        "torchserve-deployment.yaml",
        "            {{- toYaml $.Values.torchserve.door.resources | nindent 12 }}",
        "            {}",
    ),
    Mutation(
        "gpus_are_for_servers_only",
        "gateway-deployment.yaml",
        "            {{- toYaml $gateway.resources | nindent 12 }}",
        '            {{- include "duet.resources" (dict "resources" $gateway.resources "gpu" '
        '(dict "count" 1 "resource" "nvidia.com/gpu")) | nindent 12 }}',
    ),
    Mutation("a_rollout_can_end_where_all_gpus_are_taken", "_pod.tpl", "  maxSurge: 0\n", "  maxSurge: 1\n"),
    Mutation(
        "pods_are_restricted",
        "_pod.tpl",
        "    {{- toYaml .root.Values.securityContext | nindent 4 }}\n",
        "    readOnlyRootFilesystem: true\n",
    ),
    Mutation(
        "no_pod_has_a_token_of_the_cluster",
        "_pod.tpl",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
    ),
    Mutation(
        "replicas_are_left_to_the_scaler", "gateway-deployment.yaml", "  {{- if not $scaled }}", "  {{- if true }}"
    ),
    Mutation("autoscalers_can_work", "gateway-hpa.yaml", "type: Utilization", "type: AverageValue"),
    Mutation(
        "pods_outlive_their_drain",
        "torchserve-deployment.yaml",
        "terminationGracePeriodSeconds: {{ int $pool.terminationGracePeriodSeconds }}",
        "terminationGracePeriodSeconds: 30",
    ),
    Mutation("tensorflow_serving_is_drained_and_then_ended", "_tfserving.tpl", 'sleep "$DRAIN_SECONDS"; ', ""),
    Mutation(
        "torchserve_listens_on_loopback_with_tokens",
        "_torchserve.tpl",
        "management_address=http://127.0.0.1:8081",
        "management_address=http://0.0.0.0:8081",
    ),
    Mutation(
        "torchserve_workers_follow_the_gpus",
        "_torchserve.tpl",
        "(mul (int $pool.gpu.count) (int $pool.workers.perGpu))",
        "(int64 1)",
    ),
    Mutation(
        "secrets_are_in_secrets_only",
        "torchserve-deployment.yaml",
        "            - --token-file=/etc/duet/token/key_file.json\n",
        "            - --token={{ randAlphaNum 43 }}\n",
    ),
    Mutation(
        "volumes_and_their_sources_exist",
        "gateway-deployment.yaml",
        'name: {{ include "duet.fullname" . }}-gateway\n        - name: tmp',
        'name: {{ include "duet.fullname" . }}-config\n        - name: tmp',
    ),
    Mutation(
        "names_fit_what_kubernetes_takes", "gateway-deployment.yaml", "{name: admin,", "{name: administration-port,"
    ),
    Mutation(
        "the_gateway_and_its_servers_have_the_same_models",
        "_helpers.tpl",
        "(or (empty $.pool.models) (has $name $.pool.models))",
        '(ne $name "convnet")',
    ),
    Mutation("the_gateway_is_told_of_rows_what_the_values_say", "_helpers.tpl", 'if eq $word "unknown"', "if false"),
    Mutation(
        "the_gateway_is_told_of_rows_what_the_values_say",
        "_helpers.tpl",
        "{{- if hasKey (default dict $rows) . }}",
        "{{- if true }}",
    ),
    Mutation(
        "the_gateway_knows_its_servers_by_their_services",
        "_helpers.tpl",
        'printf "http://%s:8080"',
        'printf "http://%s:8085"',
    ),
    Mutation(
        "jobs_are_never_changed", "loadtest-jobs.yaml", "-loadtest-{{ $role }}-{{ $mark }}", "-loadtest-{{ $role }}"
    ),
    Mutation(
        "everything_is_denied_that_is_not_needed",
        "networkpolicy.yaml",
        "policyTypes: [Ingress, Egress]",
        "policyTypes: [Ingress]",
    ),
    Mutation(
        "everything_is_denied_that_is_not_needed",
        "gateway-networkpolicy.yaml",
        '"component" "torchserve") | nindent 14',
        '"component" "loadtest") | nindent 14',
    ),
    Mutation(
        "no_argument_has_vanished",
        "gateway-deployment.yaml",
        "[python, -m, gateway, --config, /etc/duet/duet.yaml]",
        "[python, -m, gateway, --config, {{ toJson $gateway.configFile }}]",
    ),
    Mutation(
        "servers_are_reached_by_the_gateway_and_by_monitoring_only",
        "tfserving-networkpolicy.yaml",
        '"component" "gateway"',
        '"component" "test"',
    ),
    Mutation(
        "no_peer_is_empty",
        "torchserve-networkpolicy.yaml",
        "    - from:\n        {{- toYaml $policy.monitoring | nindent 8 }}\n      ports:",
        "    - ports:",
    ),
    Mutation(
        "a_changed_config_rolls_the_pods",
        "gateway-deployment.yaml",
        'include "duet.config" . | sha256sum',
        '"constant" | sha256sum',
    ),
    Mutation(
        "two_releases_in_one_namespace_do_not_meet",
        "_helpers.tpl",
        "app.kubernetes.io/instance: {{ .root.Release.Name }}",
        "app.kubernetes.io/instance: duet",
    ),
    Mutation(
        "a_long_release_name_still_fits",
        "_helpers.tpl",
        "default $both .Values.fullnameOverride | trunc 36",
        "default $both .Values.fullnameOverride | trunc 53",
    ),
    Mutation(
        "labels_of_the_user_never_reach_a_selector",
        "_helpers.tpl",
        "app.kubernetes.io/component: {{ .component }}\n",
        "app.kubernetes.io/component: {{ .component }}\n{{ with .root.Values.commonLabels }}{{ toYaml . }}{{ end }}\n",
    ),
    Mutation(
        "custom_resources_need_their_api",
        "gateway-servicemonitor.yaml",
        '(.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")',
        "true",
    ),
    Mutation(
        "a_drain_that_is_longer_than_the_grace_is_refused",
        "_validate.tpl",
        "{{- if le (int $pool.terminationGracePeriodSeconds) (int $pool.drainSeconds) }}",
        "{{- if false }}",
    ),
    Mutation("the_tag_latest_is_refused", "_validate.tpl", '{{- if eq .image.tag "latest" }}', "{{- if false }}"),
)


def main() -> int:
    whole = set(broken(CHART))
    if whole:
        print(f"The chart itself breaks: {', '.join(sorted(whole))}")
        return 1
    missed = 0
    for number, mutation in enumerate(MUTATIONS, 1):
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(shutil.copytree(CHART, Path(folder) / "duet"))
            mutate(chart, mutation)
            red = set(broken(chart, only=mutation.promise))
        missed += mutation.promise not in red
        print(f"{number:2} {'red   ' if mutation.promise in red else 'MISSED'} {mutation.promise}  ({mutation.file})")
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} mutations were noticed")
    untouched = sorted((PROMISES.keys() | PAIRS.keys()) - {mutation.promise for mutation in MUTATIONS})
    if untouched:
        print(f"No mutation breaks {', '.join(untouched)}: add one")
    return 1 if missed or untouched else 0


def mutate(chart: Path, mutation: Mutation) -> None:
    file = chart / "templates" / mutation.file
    text = file.read_text()
    if mutation.old not in text:
        raise SystemExit(f"{mutation.promise}: {mutation.file} no longer holds {mutation.old!r}; change the mutation")
    file.write_text(text.replace(mutation.old, mutation.new, 1))


def broken(chart: Path, only: str | None = None) -> Iterator[str]:
    """The names of the promises that the chart breaks, of all or of one."""
    if only is None or only in PROMISES:
        renderings = list(_renderings(chart))
        for name, check in PROMISES.items():
            if only in (None, name) and not all(_keeps(partial(check, rendering)) for rendering in renderings):
                yield name

    def rendered(values: dict[str, Any], release: str = "duet") -> Rendering:
        return render(values=values, release=release, chart=chart, apis=values.pop("_apis", APIS))

    for name, pair in PAIRS.items():
        if only in (None, name) and not _keeps(partial(pair, rendered)):
            yield name


def _renderings(chart: Path) -> Iterator[Rendering]:
    with suppress(Refused):  # a mutant that cannot be rendered is no proof of anything
        yield render(chart=chart)
        yield render(chart=chart, values=_ALL_ON)
        yield render(EXAMPLES["production"], chart=chart)


def _keeps(check: partial[None]) -> bool:
    try:
        check()
    except AssertionError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
