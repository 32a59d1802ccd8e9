{{/* The DaskCluster that each run's is made from; name, size and commands are the run's. */}}
{{- define "alpage.cluster" -}}
apiVersion: kubernetes.dask.org/v1
kind: DaskCluster
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/name: alpage
    app.kubernetes.io/instance: {{ .Release.Name }}
    alpage/release: {{ .Release.Name }}
    app.kubernetes.io/part-of: alpage
  annotations:
    alpage/spot: {{ toJson .Values.cluster.spot | quote }}
    {{- if .Values.operator.enabled }}
    alpage/idle-seconds: {{ .Values.cluster.idleSeconds | quote }}
    {{- end }}
spec:
  {{- if not .Values.operator.enabled }}
  idleTimeout: {{ .Values.cluster.idleSeconds }}
  {{- end }}
  scheduler:
    spec:
      {{- include "alpage.daskPod" (dict "root" . "role" "scheduler") | nindent 6 }}
          ports:
            - {name: tcp-comm, containerPort: 8786}
            - {name: http-dashboard, containerPort: 8787}
          readinessProbe: {httpGet: {path: /health, port: http-dashboard}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 30}
          livenessProbe: {httpGet: {path: /health, port: http-dashboard}, initialDelaySeconds: 30, periodSeconds: 20, timeoutSeconds: 15, failureThreshold: 6}
          resources: {{- toYaml .Values.cluster.scheduler.resources | nindent 12 }}
    service:
      type: ClusterIP
      selector:
        dask.org/cluster-name: ""
        dask.org/component: scheduler
      ports:
        - {name: tcp-comm, protocol: TCP, port: 8786, targetPort: tcp-comm}
        - {name: http-dashboard, protocol: TCP, port: 8787, targetPort: http-dashboard}
  worker:
    replicas: 1
    spec:
      {{- include "alpage.daskPod" (dict "root" . "role" "worker") | nindent 6 }}
          ports: [{name: http-dashboard, containerPort: 8787}]
{{- end -}}

{{- define "alpage.daskPod" -}}
{{- $dask := index .root.Values.cluster .role -}}
serviceAccountName: {{ include "alpage.name" .root }}-dask
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 5
securityContext: {{- include "alpage.podSecurity" .root | nindent 2 }}
{{- include "alpage.pull" .root }}
{{- with $dask.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $dask.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .role "scheduler" }}
{{- include "alpage.offSpot" .root }}
{{- end }}
volumes:
  - {{- include "alpage.scratch" .root | nindent 4 }}
containers:
  - name: {{ .role }}
    image: {{ include "alpage.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    env:
      {{- if eq .role "worker" }}
      {{- include "alpage.storageEnv" .root | nindent 6 }}
      {{- else }}
      []
      {{- end }}
    securityContext: {{- include "alpage.containerSecurity" .root | nindent 6 }}
    volumeMounts: [{name: scratch, mountPath: /tmp}]
{{- end -}}
