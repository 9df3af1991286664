{{/* What all pods have in common: identity and hardening. Takes the root. */}}
{{- define "duet.podBase" -}}
serviceAccountName: {{ include "duet.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* Where pods go. Takes root, component, pool (a name or nothing) and values (the section or the pool). */}}
{{- define "duet.placement" -}}
{{- $selector := dict "root" .root "component" .component "pool" .pool }}
{{- $nodes := deepCopy .values.nodeSelector }}
{{- $tolerations := .values.tolerations }}
{{- with .values.gpu }}
{{- if gt (int .count) 0 }}
{{- if .type }}
{{- $_ := set $nodes "nvidia.com/gpu.product" .type }}
{{- end }}
{{- $tolerations = append $tolerations (dict "key" .resource "operator" "Exists" "effect" "NoSchedule") }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- with $nodes }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml (omit . "labelSelector") | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- include "duet.selectorLabels" $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A pod's labels: the selector's and the user's, which cannot replace those. Takes root, component, pool and values. */}}
{{- define "duet.podLabels" -}}
{{- $own := include "duet.labels" (dict "root" .root "component" .component "pool" .pool) | fromYaml }}
{{- mergeOverwrite (deepCopy .values.podLabels) $own | toYaml }}
{{- end }}

{{/* resources with the GPUs. Takes resources and gpu. */}}
{{- define "duet.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if gt (int .gpu.count) 0 }}
{{- range list "requests" "limits" }}
{{- $_ := set (index $resources .) $.gpu.resource (int $.gpu.count) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* A rollout that can end: where GPUs are taken, the old pod has to go before the new one fits. Takes the gpu section. */}}
{{- define "duet.strategy" -}}
type: RollingUpdate
rollingUpdate:
  {{- if gt (int .count) 0 }}
  maxSurge: 0
  maxUnavailable: 1
  {{- else }}
  maxSurge: 1
  maxUnavailable: 0
  {{- end }}
{{- end }}

{{/* The volume with the models. Takes store (modelStore). */}}
{{- define "duet.modelVolume" -}}
{{- if eq .store.source "pvc" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ .store.location }}
    readOnly: true
{{- else if ne .store.source "baked" }}
- name: models
  emptyDir:
    sizeLimit: {{ .store.size }}
{{- end }}
{{- end }}

{{/* Where the server finds them. Takes store. */}}
{{- define "duet.modelMount" -}}
{{- if ne .store.source "baked" }}
- name: models
  mountPath: {{ .store.path }}
  readOnly: true
  {{- if and (eq .store.source "pvc") .store.subPath }}
  subPath: {{ .store.subPath }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The init container that lets through what is listed, in the way of serving/digests.py. Takes root, pool, variant. */}}
{{- define "duet.checkDigests" -}}
{{- $models := include "duet.models" .root | fromJson }}
{{- $own := list }}
{{- range $model := include "duet.poolModels" . | fromJsonArray }}
{{- range default (list 1) (index $models $model).versions }}
{{- $own = append $own (printf (ternary "%s/%d" "%s-%d.mar" (eq $.variant "tensorflow")) $model (int .)) }}
{{- end }}
{{- end }}
- name: digests
  image: {{ include "duet.gatewayImage" .root }}
  imagePullPolicy: {{ .root.Values.gateway.image.pullPolicy }}
  command:
    - /bin/sh
    - -ec
    - |
      {{- include "duet.checkDigestsRun" . | nindent 6 }}
  env:
    - {name: STORE, value: /store}
    - {name: OWN, value: {{ join " " $own | quote }}}
    - name: ALLOWED
      value: {{ .pool.modelStore.allowDigests | quote }}
  resources:
    {{- toYaml .root.Values.downloads.resources | nindent 4 }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /store}
{{- end }}

{{- define "duet.checkDigestsRun" -}}
cd "$STORE"
if [ -n "$(find . -type l)" ]; then
  echo "the store holds links, which may lead anywhere: artifacts must be files of their own" >&2
  exit 1
fi
refused=0
for artifact in ./*/[0-9]* ./*.mar; do
  [ -e "$artifact" ] || continue
  name=${artifact#./}
  if [ -d "$artifact" ]; then
    digest=$(cd "$artifact" && find . -type f | LC_ALL=C sort | xargs -r -d '\n' sha256sum | sha256sum)
  else
    digest=$(sha256sum < "$artifact")
  fi
  digest=${digest%% *}
  if printf '%s\n' "$ALLOWED" | grep -Eqx "$digest( [ *].*)?"; then continue; fi
  rm -rf "$artifact"
  echo "$name is not in modelStore.allowDigests and was deleted; its digest is $digest" >&2
  case " $OWN " in *" $name "*) refused=1 ;; esac
done
exit $refused
{{- end }}

{{/* The init container that fetches the models. Takes root and store. */}}
{{- define "duet.download" -}}
{{- $images := .root.Values.downloads }}
{{- $from := .store.location | trimSuffix "/" }}
{{- if .store.subPath }}
{{- $from = printf "%s/%s" $from .store.subPath }}
{{- end }}
- name: download
  image: {{ ternary .store.location (get $images .store.source) (eq .store.source "oci") }}
  {{- if eq .store.source "s3" }}
  command: [aws, s3, sync, --no-progress, {{ quote $from }}, /store]
  {{- else if eq .store.source "gcs" }}
  command: [gcloud, storage, rsync, --recursive, {{ quote $from }}, /store]
  {{- else if eq .store.source "http" }}
  command:
    - /bin/sh
    - -ec
    - |
      curl --fail --silent --show-error --location --retry 5 --output /tmp/models.tar.gz "$LOCATION"
      echo "$SHA256  /tmp/models.tar.gz" | sha256sum -c -
      mkdir /tmp/models
      tar -xzf /tmp/models.tar.gz -C /tmp/models
      cp -R "/tmp/models/$SUBPATH/." /store/
  {{- else }}
  command: [/bin/sh, -ec, 'cp -R "/models/$SUBPATH/." /store/']
  {{- end }}
  env:
    - {name: HOME, value: /tmp}
    {{- if eq .store.source "gcs" }}
    - {name: CLOUDSDK_CONFIG, value: /tmp/gcloud}
    {{- end }}
    {{- if has .store.source (list "http" "oci") }}
    - {name: SUBPATH, value: {{ default "." .store.subPath | quote }}}
    {{- end }}
    {{- if eq .store.source "http" }}
    - {name: LOCATION, value: {{ .store.location | quote }}}
    - {name: SHA256, value: {{ .store.sha256 | quote }}}
    {{- end }}
  {{- if and (has .store.source (list "s3" "gcs")) .store.existingSecret }}
  envFrom:
    - secretRef:
        name: {{ .store.existingSecret }}
  {{- end }}
  resources:
    {{- toYaml $images.resources | nindent 4 }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /store}
    - {name: tmp, mountPath: /tmp}
{{- end }}
