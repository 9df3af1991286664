{{/* The chart's name. */}}
{{- define "duet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" }}
{{- end }}

{{/* The prefix of all names: 36 characters at most, so that 63 hold it with "-torchserve-" and a pool's name. */}}
{{- define "duet.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $both .Values.fullnameOverride | trunc 36 | trimSuffix "-" }}
{{- end }}

{{/* Chart and version as a label: no plus sign, 63 characters at most. */}}
{{- define "duet.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What selectors may hold. Takes root, component and, for a pool, pool. */}}
{{- define "duet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "duet.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
duet.dev/pool: {{ . }}
{{- end }}
{{- end }}

{{/* All labels of an object. Takes what selectorLabels takes. */}}
{{- define "duet.labels" -}}
{{- with .root.Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
{{ include "duet.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: duet
helm.sh/chart: {{ include "duet.chart" .root }}
{{- end }}

{{- define "duet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "duet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image's reference. Takes image and the tag that stands for an empty one. */}}
{{- define "duet.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end }}
{{- end }}

{{/* The gateway's image, which the door and `helm test` run too. */}}
{{- define "duet.gatewayImage" -}}
{{- include "duet.image" (dict "image" .Values.gateway.image "tag" .Chart.AppVersion) }}
{{- end }}

{{/* The catalog, as JSON: the values', or that of the documented models. */}}
{{- define "duet.models" -}}
{{- default (.Files.Get "files/models.yaml" | fromYaml) .Values.models | toJson }}
{{- end }}

{{/* A section's pools, as JSON: one where none is named. Takes root and component. */}}
{{- define "duet.pools" -}}
{{- default (dict "main" dict) (index .root.Values .component).pools | toJson }}
{{- end }}

{{/* A pool with its section's keys for what it leaves out, as JSON. Takes root, component, pool (the pool's own keys). */}}
{{- define "duet.pool" -}}
{{- $section := omit (index .root.Values .component) "enabled" "pools" "token" "door" }}
{{- mergeOverwrite (deepCopy $section) (deepCopy (default dict .pool)) | toJson }}
{{- end }}

{{/*
What the gateway is told of a model's rows, as JSON: its setting `batching.rows`, empty where nothing is known. A real
TensorFlow Serving cannot tell them. Takes rows and variants.
*/}}
{{- define "duet.rows" -}}
{{- $told := dict }}
{{- $rows := .rows }}
{{- if kindIs "string" $rows }}
{{- range .variants }}
{{- $_ := set $told . $rows }}
{{- end }}
{{- else }}
{{- range .variants }}
{{- if hasKey (default dict $rows) . }}
{{- $_ := set $told . (index $rows .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $variant, $word := $told }}
{{- if eq $word "unknown" }}
{{- $_ := unset $told $variant }}
{{- end }}
{{- end }}
{{- ternary (dict "batching" (dict "rows" $told)) dict (not (empty $told)) | toJson }}
{{- end }}

{{/* Names of the catalog's models that a pool serves, as a JSON list. Takes root, variant and pool (from duet.pool). */}}
{{- define "duet.poolModels" -}}
{{- $names := list }}
{{- range $name, $model := include "duet.models" .root | fromJson }}
{{- if and (has $.variant (default (list "tensorflow" "pytorch") $model.variants)) (or (empty $.pool.models) (has $name $.pool.models)) }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/* Where the gateway finds a framework's pods: a headless Service, so that it sees each of them. */}}
{{- define "duet.serverHost" -}}
{{ include "duet.fullname" .root }}-{{ .component }}
{{- end }}

{{/* duet.yaml as JSON: what the chart knows, and gateway.config over it. */}}
{{- define "duet.config" -}}
{{- $frameworks := list }}
{{- $servers := dict }}
{{- if .Values.tfserving.enabled }}
{{- $frameworks = append $frameworks "tensorflow" }}
{{- $_ := set $servers "tensorflow" (dict "kind" "tfserving" "endpoint" (printf "%s:8500" (include "duet.serverHost" (dict "root" . "component" "tfserving")))) }}
{{- end }}
{{- if .Values.torchserve.enabled }}
{{- $frameworks = append $frameworks "pytorch" }}
{{- $door := printf "http://%s:8080" (include "duet.serverHost" (dict "root" . "component" "torchserve")) }}
{{- $_ := set $servers "pytorch" (dict "kind" "torchserve" "endpoint" $door "management" $door "key_file" "/etc/duet/token/key_file.json") }}
{{- end }}
{{- range $name, $_ := .Values.gateway.config.servers }}
{{- $frameworks = append $frameworks $name }}
{{- end }}
{{- $models := dict }}
{{- range $name, $model := include "duet.models" . | fromJson }}
{{- $variants := list }}
{{- range default $frameworks $model.variants }}
{{- if has . $frameworks }}
{{- $variants = append $variants . }}
{{- end }}
{{- end }}
{{- if $variants }}
{{- $rows := include "duet.rows" (dict "rows" $model.rows "variants" $variants) | fromJson }}
{{- $entry := mergeOverwrite (dict "default" (first $variants)) $rows (omit $model "versions" "rows") (dict "variants" ($variants | uniq)) }}
{{- $_ := set $models $name $entry }}
{{- end }}
{{- end }}
{{- $auth := dict "mode" "off" "allow_public" true }}
{{- if .Values.gateway.apiKeys.existingSecret }}
{{- $auth = dict "keys" (dict "file" "/etc/duet/keys/keys.json" "pepper" "/etc/duet/keys/pepper") }}
{{- end }}
{{- $known := dict
  "auth" (ternary (dict) $auth (hasKey .Values.gateway.config "auth"))
  "http" (dict "host" "0.0.0.0" "port" 8000)
  "grpc" (dict "host" "0.0.0.0" "port" 8001)
  "admin" (dict "host" "0.0.0.0" "port" 8002)
  "servers" $servers
  "models" $models
  "linger_seconds" 5
  "drain_seconds" 30 }}
{{- mergeOverwrite $known (deepCopy .Values.gateway.config) | toJson }}
{{- end }}

{{/* The secret with the token between gateway and TorchServe. */}}
{{- define "duet.tokenSecret" -}}
{{- default (printf "%s-torchserve-token" (include "duet.fullname" .)) .Values.torchserve.token.existingSecret }}
{{- end }}

{{/* The egress rule for the cluster's DNS. */}}
{{- define "duet.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{/* "true" where a pool of the component downloads its models. Takes root and component. */}}
{{- define "duet.downloads" -}}
{{- $component := .component }}
{{- $root := .root }}
{{- range $name, $own := include "duet.pools" (dict "root" .root "component" .component) | fromJson }}
{{- $pool := include "duet.pool" (dict "root" $root "component" $component "pool" $own) | fromJson }}
{{- if has $pool.modelStore.source (list "s3" "gcs" "http") }}true{{ end }}
{{- end }}
{{- end }}
