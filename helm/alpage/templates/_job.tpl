{{/* The work pool's base job template: what a run's job is, and what a deployment may change. */}}
{{- define "alpage.baseJobTemplate" -}}
{{- $flows := .Values.flows -}}
job_configuration:
  name: {{ "{{ name }}" | quote }}
  command: {{ "{{ command }}" | quote }}
  env: {{ "{{ env }}" | quote }}
  labels: {{ "{{ labels }}" | quote }}
  namespace: {{ .Release.Namespace }}
  job_manifest:
    apiVersion: batch/v1
    kind: Job
    metadata:
      annotations: {}
      labels: {{ "{{ labels }}" | quote }}
      namespace: {{ .Release.Namespace }}
      generateName: {{ "{{ name }}-" | quote }}
    spec:
      backoffLimit: 0
      {{- /* A pod that ends counts when it has ended: by then its flow has asked for another. */}}
      podReplacementPolicy: Failed
      ttlSecondsAfterFinished: {{ $flows.keepFinishedSeconds }}
      {{- with $flows.deadlineSeconds }}
      activeDeadlineSeconds: {{ . }}
      {{- end }}
      template:
        metadata:
          labels:
            {{- include "alpage.selector" (dict "root" . "component" "flow") | nindent 12 }}
        spec:
          parallelism: 1
          completions: 1
          restartPolicy: Never
          serviceAccountName: {{ include "alpage.name" . }}-flow
          automountServiceAccountToken: true
          enableServiceLinks: false
          terminationGracePeriodSeconds: 60
          securityContext: {{- include "alpage.podSecurity" . | nindent 12 }}
          {{- include "alpage.pull" . | nindent 10 }}
          {{- include "alpage.offSpot" . | nindent 10 }}
          containers:
            - name: prefect-job
              image: {{ "{{ image }}" | quote }}
              imagePullPolicy: {{ .Values.image.pullPolicy }}
              args: {{ "{{ command }}" | quote }}
              env:
                {{- include "alpage.storageEnv" . | nindent 16 }}
                - name: POD_NAME
                  valueFrom: {fieldRef: {fieldPath: metadata.name}}
                - name: POD_UID
                  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
                - {name: ALPAGE_CLUSTER_TEMPLATE, value: /etc/alpage/cluster.yaml}
                # The template's may be another version's by then, around an upgrade.
                - {name: ALPAGE_CLUSTER_IMAGE, value: {{ "{{ image }}" | quote }}}
                - {name: ALPAGE_CLUSTER_START_SECONDS, value: {{ .Values.cluster.startSeconds | quote }}}
                - {name: PREFECT_LOGGING_EXTRA_LOGGERS, value: alpage}
                {{- if .Values.monitoring.enabled }}
                - {name: ALPAGE_METRICS_PORT, value: {{ .Values.monitoring.port | quote }}}
                {{- end }}
              {{- if .Values.monitoring.enabled }}
              ports: [{name: metrics, containerPort: {{ .Values.monitoring.port }}}]
              {{- end }}
              securityContext: {{- include "alpage.containerSecurity" . | nindent 16 }}
              resources: {{- toYaml $flows.resources | nindent 16 }}
              volumeMounts:
                - {name: scratch, mountPath: /tmp}
                - {name: cluster, mountPath: /etc/alpage, readOnly: true}
          volumes:
            - {{- include "alpage.scratch" . | nindent 14 }}
            - {name: cluster, configMap: {name: {{ include "alpage.name" . }}-cluster}}
variables:
  type: object
  properties:
    name: {type: string, title: Name, description: Name of the job.}
    command: {type: string, title: Command, description: What the job runs; by default the flow.}
    env: {type: object, title: Environment, additionalProperties: {type: string}, default: {}}
    labels: {type: object, title: Labels, additionalProperties: {type: string}, default: {}}
    image: {type: string, title: Image, default: {{ include "alpage.image" . | quote }}}
{{- end -}}
