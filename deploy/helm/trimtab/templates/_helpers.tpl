{{- define "trimtab.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "trimtab.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* Labels that select. Takes a dictionary with `root` and `part`. */}}
{{- define "trimtab.selector" -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "trimtab.labels" -}}
{{ include "trimtab.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* What every container may not do. */}}
{{- define "trimtab.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "trimtab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Placement. Takes a dictionary with `root`, `part` and `values`. */}}
{{- define "trimtab.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "trimtab.spread" -}}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "trimtab.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the Services of Gateways have in common, as JSON. */}}
{{- define "trimtab.gatewayService" -}}
{{- $of := .Values.proxy.gatewayServices -}}
{{- $context := dict "root" . "part" "proxy" -}}
{{- $spec := dict "type" $of.type "selector" (include "trimtab.selector" $context | fromYaml) -}}
{{- if ne $of.type "ClusterIP" -}}{{- $_ := set $spec "externalTrafficPolicy" $of.externalTrafficPolicy -}}{{- end -}}
{{- with $of.loadBalancerClass -}}{{- $_ := set $spec "loadBalancerClass" . -}}{{- end -}}
{{- $metadata := dict "namespace" .Release.Namespace "annotations" $of.annotations "labels" (set (include "trimtab.selector" $context | fromYaml) "app.kubernetes.io/managed-by" "trimtab") -}}
{{- dict "metadata" $metadata "spec" $spec | toJson -}}
{{- end -}}

{{- define "trimtab.controllerSecret" -}}
{{ required "tls.controllerSecret: with tls.managed false, the Secret with the controller's tls.crt, tls.key and ca.crt" .Values.tls.controllerSecret }}
{{- end -}}

{{- define "trimtab.proxySecret" -}}
{{- if .Values.tls.managed -}}
trimtab-proxy-tls
{{- else -}}
{{ required "tls.proxySecret: with tls.managed false, the Secret with the proxies' tls.crt, tls.key and ca.crt" .Values.tls.proxySecret }}
{{- end -}}
{{- end -}}
