{{/* The models of a list (all where it is empty), each as model@variant. Takes root, models and twins (only those with both). */}}
{{- define "duet.pinned" -}}
{{- $pinned := list }}
{{- range $name, $model := (include "duet.config" .root | fromJson).models }}
{{- if and (or (empty $.models) (has $name $.models)) (or (not $.twins) (gt (len $model.variants) 1)) }}
{{- range $model.variants }}
{{- $pinned = append $pinned (printf "%s@%s" $name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $pinned }}
{{- end }}

{{/* The pod that calls models with files/calls.py. Takes root, component, secret, flags and pinned (from duet.pinned). */}}
{{- define "duet.callingPod" -}}
{{- include "duet.podBase" .root }}
restartPolicy: Never
containers:
  - name: calls
    image: {{ include "duet.gatewayImage" .root }}
    imagePullPolicy: {{ .root.Values.gateway.image.pullPolicy }}
    command: [python, /etc/duet/calls.py]
    args:
      {{- range .flags }}
      - {{ . }}
      {{- end }}
      - http://{{ include "duet.fullname" .root }}-gateway:{{ .root.Values.gateway.service.httpPort }}
      {{- range .pinned | fromJsonArray }}
      - {{ . | quote }}
      {{- end }}
    {{- if .secret }}
    env:
      - {name: DUET_KEY_FILE, value: /etc/duet/key/key}
    {{- end }}
    resources:
      requests: {cpu: 50m, memory: 32Mi}
      limits: {cpu: 500m, memory: 128Mi}
    securityContext:
      {{- toYaml .root.Values.securityContext | nindent 6 }}
    volumeMounts:
      - {name: calls, mountPath: /etc/duet/calls.py, subPath: calls.py, readOnly: true}
      {{- if .secret }}
      - {name: key, mountPath: /etc/duet/key, readOnly: true}
      {{- end }}
volumes:
  - name: calls
    configMap:
      name: {{ include "duet.fullname" .root }}-calls
  {{- with .secret }}
  - name: key
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
{{- end }}
