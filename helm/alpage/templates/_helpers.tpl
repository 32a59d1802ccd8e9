{{- define "alpage.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "alpage.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* Labels of everything: dict "root" and "component". */}}
{{- define "alpage.labels" -}}
{{ include "alpage.selector" . }}
app.kubernetes.io/name: alpage
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: alpage
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end -}}

{{/* Labels of our own: Prefect sets the usual ones of runs' pods to its own mind. */}}
{{- define "alpage.selector" -}}
alpage/release: {{ .root.Release.Name }}
alpage/component: {{ .component }}
{{- end -}}

{{- define "alpage.metadata" -}}
name: {{ include "alpage.name" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "alpage.labels" . | nindent 2 }}
{{- end -}}

{{/* What the restricted Pod Security Standard asks of a pod and of its containers. */}}
{{- define "alpage.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "alpage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "alpage.pull" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Off the nodes that may go away at any moment. */}}
{{- define "alpage.offSpot" -}}
{{- with .Values.cluster.spot.labels }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            {{- range $key, $value := . }}
            - {key: {{ $key | quote }}, operator: NotIn, values: [{{ $value | quote }}]}
            {{- end }}
{{- end }}
{{- end -}}

{{- define "alpage.scratch" -}}
name: scratch
emptyDir: {sizeLimit: {{ .Values.cluster.scratchLimit }}}
{{- end -}}

{{- define "alpage.apiUrl" -}}
{{- .Values.prefect.apiUrl | default (printf "http://%s-server.%s.svc:4200/api" (include "alpage.name" .) .Release.Namespace) -}}
{{- end -}}

{{/* The environment of whoever speaks to Prefect. */}}
{{- define "alpage.prefectEnv" -}}
- {name: PREFECT_API_URL, value: {{ include "alpage.apiUrl" . | quote }}}
{{- with .Values.prefect.authSecret }}
- name: PREFECT_API_AUTH_STRING
  valueFrom: {secretKeyRef: {name: {{ . }}, key: auth}}
{{- end }}
{{- end -}}

{{- define "alpage.storageSecret" -}}
{{- if .Values.trialStorage.enabled -}}
{{ include "alpage.name" . }}-storage
{{- else -}}
{{ .Values.storage.secret }}
{{- end -}}
{{- end -}}

{{- define "alpage.endpoint" -}}
{{- if .Values.trialStorage.enabled -}}
http://{{ include "alpage.name" . }}-storage.{{ .Release.Namespace }}.svc:7070
{{- else -}}
{{ .Values.storage.endpoint }}
{{- end -}}
{{- end -}}

{{/* The environment of whoever speaks to the object store: dict "root" and "secret". */}}
{{- define "alpage.storeEnv" -}}
- {name: AWS_REGION, value: {{ .root.Values.storage.region | quote }}}
{{- with include "alpage.endpoint" .root }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
{{- end }}
{{- if .root.Values.storage.anonymous }}
- {name: AWS_SKIP_SIGNATURE, value: "true"}
{{- end }}
{{- if .root.Values.storage.requesterPays }}
- {name: AWS_REQUEST_PAYER, value: requester}
{{- end }}
{{- $secret := .secret }}
{{- if $secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}, optional: {{ eq . "AWS_SESSION_TOKEN" }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The same for flows and workers, and alpage's settings. */}}
{{- define "alpage.storageEnv" -}}
{{- include "alpage.storeEnv" (dict "root" . "secret" (include "alpage.storageSecret" .)) }}
{{- range $name, $value := .Values.settings }}
- {name: ALPAGE_{{ upper $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{/* The port of a URL. */}}
{{- define "alpage.port" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}

{{- define "alpage.storagePorts" -}}
{{- $ports := list -}}
{{- with .Values.storage.endpoint }}{{ $ports = append $ports (include "alpage.port" .) }}{{ end -}}
{{- range .Values.networkPolicy.storage.ports }}{{ $ports = append $ports (toString .) }}{{ end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}

{{/* Which of "excepts" lie within "cidr", as a NetworkPolicy asks of them. */}}
{{- define "alpage.except" -}}
{{- $cidr := .cidr -}}
{{- $outer := include "alpage.block" $cidr | fromJson -}}
{{- $within := list -}}
{{- range .excepts -}}
{{- $inner := include "alpage.block" . | fromJson -}}
{{- if eq $inner.v6 $outer.v6 -}}
{{- if and $outer.v6 (or (ne $cidr "::/0") (eq . "::/0")) -}}
{{- printf "networkPolicy.exceptCidrs: IPv6 addresses are taken out of ::/0 only, not %s out of %s: write networkPolicy.storage.cidrs without them" . $cidr | fail -}}
{{- end -}}
{{- $larger := max (int64 $inner.size) (int64 $outer.size) -}}
{{- if eq (div (int64 $inner.first) $larger) (div (int64 $outer.first) $larger) -}}
{{- if and (not $outer.v6) (ge (int64 $inner.size) (int64 $outer.size)) -}}
{{- printf "networkPolicy.exceptCidrs: %s takes out all of %s in networkPolicy.storage.cidrs: leave out one of them" . $cidr | fail -}}
{{- end -}}
{{- $within = append $within . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $within -}}
{{- end -}}

{{/* First address and size of an IPv4 block; of IPv6 only that it is one. */}}
{{- define "alpage.block" -}}
{{- $first := 0 -}}
{{- $size := 1 -}}
{{- $v6 := contains ":" . -}}
{{- if not $v6 -}}
{{- $parts := splitList "/" . -}}
{{- range splitList "." (first $parts) }}{{ $first = add (mul $first 256) (int .) }}{{ end -}}
{{- range until (sub 32 (int (last $parts)) | int) }}{{ $size = mul $size 2 }}{{ end -}}
{{- end -}}
{{- dict "v6" $v6 "first" $first "size" $size | toJson -}}
{{- end -}}

{{/* Whatever two values contradict is refused by name. */}}
{{- define "alpage.check" -}}
{{- if and .Values.prefect.server.enabled .Values.prefect.apiUrl -}}
{{- fail "prefect.apiUrl names a server that is there already: set prefect.server.enabled to false, or leave apiUrl empty" -}}
{{- end -}}
{{- if and (not .Values.prefect.server.enabled) (not .Values.prefect.apiUrl) -}}
{{- fail "prefect.server.enabled is false: set prefect.apiUrl to the server that is there already" -}}
{{- end -}}
{{- if and .Values.prefect.server.persistence.existingClaim (not .Values.prefect.server.persistence.enabled) -}}
{{- fail "prefect.server.persistence.existingClaim is set, but prefect.server.persistence.enabled is false: set it to true" -}}
{{- end -}}
{{- if and .Values.trialStorage.enabled (or .Values.storage.endpoint .Values.storage.secret) -}}
{{- fail "trialStorage.enabled brings its own endpoint and keys: leave storage.endpoint and storage.secret empty" -}}
{{- end -}}
{{- if and .Values.trialStorage.enabled (not .Values.trialStorage.image) -}}
{{- fail "trialStorage.enabled needs trialStorage.image, an image of versitygw" -}}
{{- end -}}
{{- if and (not .Values.prefect.server.enabled) (or .Values.prefect.server.uiApiUrl .Values.networkPolicy.prefectClients) -}}
{{- fail "prefect.server.uiApiUrl and networkPolicy.prefectClients are about the chart's own server: leave them empty, or set prefect.server.enabled to true" -}}
{{- end -}}
{{- if and .Values.operator.enabled .Values.operator.namespace -}}
{{- fail "operator.namespace names an operator that is there already: set operator.enabled to false, or leave it empty" -}}
{{- end -}}
{{- if and (not .Values.operator.enabled) .Values.networkPolicy.enabled (not .Values.operator.namespace) -}}
{{- fail "operator.enabled is false: set operator.namespace to that of the operator that is there already, network policies let it in" -}}
{{- end -}}
{{- if and .Values.storage.anonymous (or .Values.storage.secret .Values.service.secret .Values.storage.requesterPays .Values.trialStorage.enabled) -}}
{{- fail "storage.anonymous is about requests without keys: leave storage.secret and service.secret empty, storage.requesterPays and trialStorage.enabled false" -}}
{{- end -}}
{{- range $key, $secret := dict "storage.endpoint" "storage.secret" "prefect.apiUrl" "prefect.authSecret" "prefect.server.uiApiUrl" "prefect.authSecret" -}}
{{- $url := $.Values -}}
{{- range splitList "." $key }}{{ $url = index $url . }}{{ end -}}
{{- if regexMatch "^https?://[^/]*@" $url -}}
{{- printf "%s holds a user or a password before its @, which whoever reads the release would see: leave them out, and name a secret that holds them in %s" $key $secret | fail -}}
{{- end -}}
{{- end -}}
{{- if and .Values.service.enabled .Values.monitoring.enabled (eq (int .Values.monitoring.port) 8000) -}}
{{- fail "monitoring.port is 8000, at which the service serves releases: choose another" -}}
{{- end -}}
{{- if and .Values.service.enabled (not .Values.service.releases) -}}
{{- fail "service.enabled needs service.releases, the s3:// URL of what it serves" -}}
{{- end -}}
{{- if lt (int .Values.cluster.idleSeconds) (add (int .Values.cluster.startSeconds) 60 | int) -}}
{{- fail "cluster.idleSeconds counts while a run waits for its workers: set it to cluster.startSeconds and 60 more at least" -}}
{{- end -}}
{{- if and (or .Values.monitoring.podMonitor.enabled .Values.monitoring.alerts.enabled) (not .Values.monitoring.enabled) -}}
{{- fail "monitoring.podMonitor and monitoring.alerts are about metrics that nobody serves: set monitoring.enabled to true" -}}
{{- end -}}
{{- with .Values.flows.update.study.product -}}
{{- if not (regexMatch "^(vegetation|snow|lakes|[^:]*:[^:]*)$" (toString .)) -}}
{{- printf "flows.update.study.product: expected one of vegetation, snow, lakes, or my_module:product, got %v" . | fail -}}
{{- end -}}
{{- end -}}
{{- if and .Values.flows.update.schedule (not .Values.flows.update.study) -}}
{{- fail "flows.update.schedule is set: flows.update.study must say which study is brought up to date" -}}
{{- end -}}
{{- end -}}
