{{/* Names are fixed: clients, the command line and the operator know them. One installation per cluster. */}}

{{- define "countersign.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: countersign
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: countersign
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* (dict "root" $ "component" "verifier") */}}
{{- define "countersign.componentLabels" -}}
{{ include "countersign.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "countersign.selector" -}}
app.kubernetes.io/name: countersign
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "countersign.image" -}}
{{- $image := .Values.image -}}
{{- $name := printf "%s%s" (empty $image.registry | ternary "" (printf "%s/" $image.registry)) $image.repository -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What every container of ours is held to. */}}
{{- define "countersign.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "countersign.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What a workload's values add to its pod: (dict "root" $ "values" .Values.operator "priorityClassName" "…"). */}}
{{- define "countersign.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName | default .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "countersign.extraVolumes" -}}
{{- range .extraVolumes }}
- name: extra-{{ .name }}
  {{- toYaml .volume | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "countersign.extraVolumeMounts" -}}
{{- range .extraVolumes }}
- name: extra-{{ .name }}
  mountPath: {{ .mountPath }}
  readOnly: {{ .readOnly | default false }}
{{- end }}
{{- end -}}

{{/* Where Redis' URL is, for one role: (dict "root" $ "role" "verifier"). */}}
{{- define "countersign.redisEnv" -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.redis.existingSecret | default "countersign-redis" }}
      key: {{ .root.Values.redis.acl.enabled | ternary (printf "%s-url" .role) "url" }}
{{- if include "countersign.redisCA" .root }}
- name: COUNTERSIGN_REDIS_CA_FILE
  value: /etc/countersign/redis-ca/{{ .root.Values.redis.tls.caKey }}
{{- end }}
{{- end -}}

{{- define "countersign.redisCA" -}}
{{- .Values.redis.tls.caSecret | default .Values.redis.tls.caConfigMap -}}
{{- end -}}

{{- define "countersign.redisCAVolume" -}}
{{- if include "countersign.redisCA" . }}
- name: redis-ca
  {{- if .Values.redis.tls.caSecret }}
  secret: {secretName: {{ .Values.redis.tls.caSecret }}}
  {{- else }}
  configMap: {name: {{ .Values.redis.tls.caConfigMap }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "countersign.redisCAMount" -}}
{{- if include "countersign.redisCA" . }}
- name: redis-ca
  mountPath: /etc/countersign/redis-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "countersign.redisURL" -}}
{{- if .Values.demo.enabled -}}
redis://countersign-demo-redis.{{ .Release.Namespace }}:6379
{{- else -}}
{{- .Values.redis.url -}}
{{- end -}}
{{- end -}}

{{/* Its port, for the network policy: as told, else the URL's, else Redis' own. */}}
{{- define "countersign.redisPort" -}}
{{- $url := include "countersign.redisURL" . -}}
{{- $host := regexReplaceAll "^[a-z+]+://(.*@)?([^/?]*).*$" $url "${2}" -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" -}}
{{- .Values.networkPolicy.redisPort | default ($port | default 6379) -}}
{{- end -}}

{{/* Not empty if the issuer is installed. */}}
{{- define "countersign.hasIssuer" -}}
{{- if or .Values.issuer.enabled .Values.demo.enabled }}true{{ end -}}
{{- end -}}

{{- define "countersign.issuerReplicas" -}}
{{- .Values.issuer.replicas | default (ternary 1 2 .Values.demo.enabled) -}}
{{- end -}}

{{/* What the issuer takes from Secrets: its database, what it derives keys from, its mail server. */}}
{{- define "countersign.issuerSecrets" -}}
{{- $values := .Values.issuer -}}
{{- if .Values.demo.enabled -}}
- {name: DATABASE_URL, value: "sqlite:/var/lib/countersign-issuer/store.db"}
{{- else -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ $values.database.existingSecret }}, key: {{ $values.database.key }}}
{{- end }}
{{- $keys := $values.existingSecret | default "countersign-issuer-key" }}
- name: TOKEN_ENCRYPTION_KEY
  valueFrom:
    secretKeyRef: {name: {{ $keys }}, key: TOKEN_ENCRYPTION_KEY}
- name: TOKEN_ENCRYPTION_KEY_PREVIOUS
  valueFrom:
    secretKeyRef: {name: {{ $keys }}, key: TOKEN_ENCRYPTION_KEY_PREVIOUS, optional: true}
{{- with $values.smtp.existingSecret }}
{{- range $name := list "SMTP_HOST" "SMTP_PORT" "SMTP_USER" "SMTP_PASSWORD" "SMTP_TLS" "SMTP_FROM_EMAIL" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $.Values.issuer.smtp.existingSecret }}, key: {{ $name }}{{ if ne $name "SMTP_HOST" }}, optional: true{{ end }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* A version as one number, so that an admission policy can compare two. */}}
{{- define "countersign.crdsVersion" -}}
{{- $version := semver .Chart.AppVersion -}}
{{- add (mul $version.Major 1000000) (mul $version.Minor 1000) $version.Patch -}}
{{- end -}}

{{/* What every part reaches. */}}
{{- define "countersign.commonEgress" -}}
# Names.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
# The API server, whose address no selector knows.
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
# Redis.
- ports:
    - {port: {{ include "countersign.redisPort" . }}, protocol: TCP}
{{- end }}

{{- define "countersign.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
