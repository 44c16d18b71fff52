{{- define "rota.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "rota.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rota.labels" -}}
{{ include "rota.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Several servers with a store each would answer each with something else. */ -}}
{{- define "rota.guard" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- if not .Values.database.existingSecret }}{{ fail "replicas: more than 1 needs database.existingSecret, a secret with the address of a PostgreSQL database: SQLite is for one server" }}{{ end }}
{{- if not .Values.vault.existingSecret }}{{ fail "replicas: more than 1 needs vault.existingSecret, a secret with the key that `rota vault new-key` prints: all servers of a store have the same" }}{{ end }}
{{- if not .Values.blobs.bucket }}{{ fail "replicas: more than 1 needs blobs.bucket: without it each server has the content of its own files only" }}{{ end }}
{{- end }}
{{- end -}}
