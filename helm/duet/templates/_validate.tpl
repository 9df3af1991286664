{{/* Stops with one sentence that names the key and what is allowed, where the schema cannot say it. Takes the root. */}}
{{- define "duet.validate" -}}
{{- $gateway := .Values.gateway }}
{{- if not (or .Values.tfserving.enabled .Values.torchserve.enabled $gateway.config.servers) }}
{{- fail "tfserving.enabled and torchserve.enabled are both false: enable one, or name a server in gateway.config.servers" }}
{{- end }}
{{- include "duet.validateGateway" . }}
{{- include "duet.validateModels" . }}
{{- range $component := list "tfserving" "torchserve" }}
{{- if (index $.Values $component).enabled }}
{{- range $name, $own := include "duet.pools" (dict "root" $ "component" $component) | fromJson }}
{{- $pool := include "duet.pool" (dict "root" $ "component" $component "pool" $own) | fromJson }}
{{- include "duet.validatePool" (dict "root" $ "component" $component "pool" $pool "key" (printf "%s.pools.%s" $component $name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $value := omit .Values.downloads "resources" }}
{{- if hasSuffix ":latest" $value }}
{{- fail (printf "downloads.%s: the tag latest is refused; name a version, or a digest" $key) }}
{{- end }}
{{- end }}
{{- include "duet.validateImage" (dict "image" .Values.loadtest.image "key" "loadtest.image") }}
{{- include "duet.validateResources" (dict "resources" .Values.loadtest.resources "key" "loadtest.resources") }}
{{- include "duet.validateResources" (dict "resources" .Values.downloads.resources "key" "downloads.resources") }}
{{- include "duet.validateResources" (dict "resources" .Values.torchserve.door.resources "key" "torchserve.door.resources") }}
{{- range $section := list "helmTest" "parityCheck" }}
{{- range (index $.Values $section).models }}
{{- if not (hasKey (include "duet.models" $ | fromJson) .) }}
{{- fail (printf "%s.models: %s is not in models; name one of %s" $section . (keys (include "duet.models" $ | fromJson) | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.parityCheck.enabled (empty (include "duet.pinned" (dict "root" . "models" .Values.parityCheck.models "twins" true) | fromJsonArray)) }}
{{- fail "parityCheck.enabled: no model has both variants; give one both in models, or set it to false" }}
{{- end }}
{{- range list "httpRoute" "grpcRoute" }}
{{- $route := index $.Values.gatewayAPI . }}
{{- if and $route.enabled (empty $route.parentRefs) }}
{{- fail (printf "gatewayAPI.%s.parentRefs is empty: name at least one Gateway, such as [{name: public}]" .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validateGateway" -}}
{{- $gateway := .Values.gateway }}
{{- include "duet.validateImage" (dict "image" $gateway.image "key" "gateway.image") }}
{{- include "duet.validateResources" (dict "resources" $gateway.resources "key" "gateway.resources") }}
{{- include "duet.validateEnv" (dict "env" $gateway.extraEnv "key" "gateway.extraEnv") }}
{{- if and $gateway.autoscaling.enabled $gateway.keda.enabled }}
{{- fail "gateway.autoscaling.enabled and gateway.keda.enabled are both true: two scalers would fight; enable one" }}
{{- end }}
{{- if and $gateway.autoscaling.enabled (not (or $gateway.autoscaling.targetCPUUtilizationPercentage $gateway.autoscaling.targetInFlight)) }}
{{- fail "gateway.autoscaling: targetCPUUtilizationPercentage and targetInFlight are both 0; one of them must be above 0" }}
{{- end }}
{{- range list "autoscaling" "keda" }}
{{- $scaling := index $gateway . }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "gateway.%s.minReplicas must not be above maxReplicas (%d)" . (int $scaling.maxReplicas)) }}
{{- end }}
{{- end }}
{{- $config := include "duet.config" . | fromJson }}
{{- $drain := addf (float64 $gateway.preStopSeconds) (float64 $config.linger_seconds) (float64 $config.drain_seconds) }}
{{- if le (float64 $gateway.terminationGracePeriodSeconds) $drain }}
{{- fail (printf "gateway.terminationGracePeriodSeconds must be above %v: preStopSeconds, linger_seconds and drain_seconds together" $drain) }}
{{- end }}
{{- $ports := list (int $config.http.port) (int $config.grpc.port) (int $config.admin.port) }}
{{- if lt (len (uniq $ports)) 3 }}
{{- fail "gateway.config: http.port, grpc.port and admin.port must be three different ports" }}
{{- end }}
{{- range $gateway.extraArgs }}
{{- if hasPrefix "--config" . }}
{{- fail "gateway.extraArgs: --config is the chart's; put the settings into gateway.config" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validateModels" -}}
{{- range $name, $model := include "duet.models" . | fromJson }}
{{- if and $model.default $model.variants (not (has $model.default $model.variants)) }}
{{- fail (printf "models.%s.default: %s is not among its variants; use one of %s" $name $model.default (join ", " $model.variants)) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validatePool" -}}
{{- $key := .key }}
{{- $pool := .pool }}
{{- $variant := ternary "tensorflow" "pytorch" (eq .component "tfserving") }}
{{- include "duet.validateImage" (dict "image" $pool.image "key" (printf "%s.image" $key)) }}
{{- include "duet.validateResources" (dict "resources" $pool.resources "key" (printf "%s.resources" $key)) }}
{{- include "duet.validateEnv" (dict "env" $pool.extraEnv "key" (printf "%s.extraEnv" $key)) }}
{{- include "duet.validateStore" (dict "store" $pool.modelStore "key" (printf "%s.modelStore" $key)) }}
{{- range $pool.models }}
{{- $model := get (include "duet.models" $.root | fromJson) . }}
{{- if not (hasKey (include "duet.models" $.root | fromJson) .) }}
{{- fail (printf "%s.models: %s is not in models; name one of %s" $key . (keys (include "duet.models" $.root | fromJson) | sortAlpha | join ", ")) }}
{{- else if and $model.variants (not (has $variant $model.variants)) }}
{{- fail (printf "%s.models: %s has no variant %s; add it to models.%s.variants, or take the model out here" $key . $variant .) }}
{{- end }}
{{- end }}
{{- if empty (include "duet.poolModels" (dict "root" .root "variant" $variant "pool" $pool) | fromJsonArray) }}
{{- fail (printf "%s: no model of the catalog has the variant %s; add one to models, or set %s.enabled to false" $key $variant .component) }}
{{- end }}
{{- if le (int $pool.terminationGracePeriodSeconds) (int $pool.drainSeconds) }}
{{- fail (printf "%s.terminationGracePeriodSeconds must be above drainSeconds (%d)" $key (int $pool.drainSeconds)) }}
{{- end }}
{{- if gt (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas must not be above maxReplicas (%d)" $key (int $pool.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and $pool.autoscaling.enabled (not (or $pool.autoscaling.targetCPUUtilizationPercentage $pool.autoscaling.metrics)) }}
{{- fail (printf "%s.autoscaling: targetCPUUtilizationPercentage is 0 and metrics is empty; set one of them" $key) }}
{{- end }}
{{- range $pool.extraArgs }}
{{- $flag := regexFind "^--[a-z_]+" . }}
{{- if has $flag (list "--port" "--model_config_file" "--rest_api_port" "--monitoring_config_file" "--enable_profiler" "--enable_grpc_healthcheck_service") }}
{{- fail (printf "%s.extraArgs: %s is the chart's; any other flag of tensorflow_model_server is allowed" $key $flag) }}
{{- end }}
{{- end }}
{{- range $name, $_ := (default dict $pool.config) }}
{{- if regexMatch "address|_port$|token|allowed_urls|enable_model_api|model_store|load_models|^models$|number_of_gpu" $name }}
{{- fail (printf "%s.config: %s is the chart's; lines about addresses, tokens and models are not allowed here" $key $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validateStore" -}}
{{- $source := .store.source }}
{{- $location := .store.location }}
{{- if and (eq $source "baked") $location }}
{{- fail (printf "%s.location is set but source is baked: set source to pvc, s3, gcs, http or oci" .key) }}
{{- else if and (ne $source "baked") (not $location) }}
{{- fail (printf "%s.location is empty: source %s needs one" .key $source) }}
{{- else if and (eq $source "s3") (not (hasPrefix "s3://" $location)) }}
{{- fail (printf "%s.location must begin with s3:// where source is s3" .key) }}
{{- else if and (eq $source "gcs") (not (hasPrefix "gs://" $location)) }}
{{- fail (printf "%s.location must begin with gs:// where source is gcs" .key) }}
{{- else if and (eq $source "http") (not (hasPrefix "https://" $location)) }}
{{- fail (printf "%s.location must begin with https:// where source is http" .key) }}
{{- else if and (eq $source "http") (not .store.sha256) }}
{{- fail (printf "%s.sha256 is empty: an archive from the network needs its SHA-256, 64 hex digits" .key) }}
{{- else if and (eq $source "oci") (not (regexMatch "(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$" $location)) }}
{{- fail (printf "%s.location must be an image with a tag or a digest where source is oci" .key) }}
{{- else if and (eq $source "oci") (hasSuffix ":latest" $location) }}
{{- fail (printf "%s.location: the tag latest is refused; name a version, or a digest" .key) }}
{{- else if and (has $source (list "baked" "pvc")) .store.allowDigests }}
{{- fail (printf "%s.allowDigests needs a source that the pod copies from (s3, gcs, http, oci): a volume could change after the check, and an image is pinned by image.digest" .key) }}
{{- end }}
{{- range splitList "\n" .store.allowDigests }}
{{- if not (regexMatch "^(#.*|[0-9a-f]{64}( [ *].*)?)?$" .) }}
{{- fail (printf "%s.allowDigests: %q is no digest; give the lines that python -m serving digests prints" $.key .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validateImage" -}}
{{- if eq .image.tag "latest" }}
{{- fail (printf "%s.tag: latest is refused, since it cannot be rolled back to; name a version, or set digest" .key) }}
{{- end }}
{{- end }}

{{- define "duet.validateResources" -}}
{{- range $kind := list "requests" "limits" }}
{{- $given := default dict (get $.resources $kind) }}
{{- range list "cpu" "memory" }}
{{- if not (get $given .) }}
{{- fail (printf "%s.%s.%s is missing: every container states what it needs and its bound, such as 500m or 1Gi" $.key $kind .) }}
{{- else if not (regexMatch "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$" (toString (get $given .))) }}
{{- fail (printf "%s.%s.%s must be a quantity such as 500m, 2 or 1Gi" $.key $kind .) }}
{{- end }}
{{- end }}
{{- range $name, $_ := $given }}
{{- if contains "/" $name }}
{{- fail (printf "%s.%s: %s does not belong here; set gpu.count and gpu.resource" $.key $kind $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "duet.validateEnv" -}}
{{- range .env }}
{{- if and .value (regexMatch "(?i)(secret|token|password|passwd|credential|api_?key|access_?key|pepper)" .name) (not (regexMatch "(?i)_(file|path)$" .name)) }}
{{- fail (printf "%s: %s looks like a secret; give it by valueFrom.secretKeyRef, not by value" $.key .name) }}
{{- end }}
{{- end }}
{{- end }}
