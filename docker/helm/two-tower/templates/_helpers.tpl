{{- define "two-tower.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "two-tower.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "two-tower.labels" -}}
{{ include "two-tower.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "two-tower.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Two versions are in memory while one replaces the other. */}}
{{- define "two-tower.memory" -}}
{{- $bytes := mul 2 (int64 .Values.items) (int64 .Values.bytesPerItem) -}}
{{- $shared := trimSuffix "Mi" .Values.sharedMemory | int64 -}}
{{- add (int64 .Values.baseMebibytes) $shared (div (add $bytes 1048575) 1048576) -}}Mi
{{- end -}}
