{{/* TorchServe's files. Takes root and pool (from duet.pool). */}}
{{- define "duet.torchserveFiles" -}}
{{- $pool := .pool }}
{{- $models := include "duet.models" .root | fromJson }}
{{- $workers := ternary (mul (int $pool.gpu.count) (int $pool.workers.perGpu)) (int64 $pool.workers.cpu) (gt (int $pool.gpu.count) 0) }}
{{- $archives := list }}
{{- $settings := dict }}
{{- range $model := include "duet.poolModels" (dict "root" .root "variant" "pytorch" "pool" .pool) | fromJsonArray }}
{{- $versions := dict }}
{{- $highest := 0 }}
{{- range default (list 1) (index $models $model).versions }}
{{- $highest = max $highest (int .) }}
{{- end }}
{{- range default (list 1) (index $models $model).versions }}
{{- $file := printf "%s-%d.mar" $model (int .) }}
{{- /* Of a model's versions the one that is loaded first becomes the default, whatever `models` says. */}}
{{- $archives = ternary (prepend $archives $file) (append $archives $file) (eq (int .) (int $highest)) }}
{{- $_ := set $versions (toString (int .)) (dict
  "defaultVersion" (eq (int .) (int $highest)) "marName" $file "minWorkers" $workers "maxWorkers" $workers
  "batchSize" 1 "maxBatchDelay" 1 "responseTimeout" 60) }}
{{- end }}
{{- $_ := set $settings $model $versions }}
{{- end }}
config.properties: |
  inference_address=http://127.0.0.1:8085
  management_address=http://127.0.0.1:8081
  metrics_address=http://127.0.0.1:8082
  grpc_inference_address=127.0.0.1
  grpc_inference_port=7070
  grpc_management_address=127.0.0.1
  grpc_management_port=7071
  model_store={{ $pool.modelStore.path | trimSuffix "/" }}
  load_models={{ join "," $archives }}
  models={{ toJson $settings }}
  enable_model_api=false
  allowed_urls=file://.*
  disable_token_authorization=false
  install_py_dep_per_model=false
  default_workers_per_model={{ $workers }}
  number_of_gpu={{ int $pool.gpu.count }}
  job_queue_size=100
  max_request_size=33554432
  max_response_size=33554432
  metrics_mode=prometheus
  disable_system_metrics=true
  {{- range $key, $value := $pool.config }}
  {{ $key }}={{ $value }}
  {{- end }}
log4j2.xml: |
  <?xml version="1.0" encoding="UTF-8"?>
  <Configuration status="WARN">
    <Appenders>
      <Console name="console" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} %-5p %c{1} - %m%n"/></Console>
    </Appenders>
    <Loggers>
      <Logger name="MODEL_LOG" level="info"/>
      <Root level="warn"><AppenderRef ref="console"/></Root>
    </Loggers>
  </Configuration>
{{- end }}

{{/* Java itself, not TorchServe's launcher, which would keep SIGTERM from it. */}}
{{- define "duet.torchserveRun" -}}
ts=$(python -c 'from importlib.util import find_spec; print(find_spec("ts").submodule_search_locations[0])')
exec java "$@" "-Dmodel_server_home=${ts%/ts}" -cp "$ts/frontend/model-server.jar" org.pytorch.serve.ModelServer \
  --python "$(command -v python)" -f /etc/torchserve/config.properties -s "$MODEL_STORE" -ncs
{{- end }}
