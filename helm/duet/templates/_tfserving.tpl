{{/* TensorFlow Serving's files. Takes root and pool (from duet.pool). */}}
{{- define "duet.tfservingFiles" -}}
models.config: |
  model_config_list {
  {{- range include "duet.poolModels" (dict "root" .root "variant" "tensorflow" "pool" .pool) | fromJsonArray }}
    config {
      name: "{{ . }}"
      base_path: "{{ $.pool.modelStore.path | trimSuffix "/" }}/{{ . }}"
      model_platform: "tensorflow"
      model_version_policy { all {} }
    }
  {{- end }}
  }
monitoring.config: |
  prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }
{{- end }}

{{/* The server does not heed SIGTERM: this answers for a while longer, for those that have not noticed, and then ends it. */}}
{{- define "duet.tfservingRun" -}}
tensorflow_model_server "$@" & server=$!
trap 'trap "" TERM INT; sleep "$DRAIN_SECONDS"; kill -KILL "$server"; exit 0' TERM INT
wait "$server"
{{- end }}
