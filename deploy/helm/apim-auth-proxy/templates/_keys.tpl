{{/* The volume of an entry of keys: (list $ name entry). Mode 0440 and the pod's fsGroup: the proxy can read it and others cannot. */}}
{{- define "apim-auth-proxy.keyVolume" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $key := index . 2 -}}
{{- if $key.secret -}}
secret:
  secretName: {{ $key.secret }}
  defaultMode: 0440
{{- else if $key.certManager -}}
secret:
  secretName: {{ include "apim-auth-proxy.fullname" $root }}-{{ $name }}
  defaultMode: 0440
{{- else if $key.configMap -}}
configMap:
  name: {{ $key.configMap }}
{{- else if $key.serviceAccountToken -}}
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken:
        path: token
        audience: {{ $key.serviceAccountToken.audience | quote }}
        expirationSeconds: {{ int (default 3600 $key.serviceAccountToken.expirationSeconds) }}
{{- else -}}
csi:
  driver: secrets-store.csi.k8s.io
  readOnly: true
  volumeAttributes:
    {{- if $key.secretProviderClass }}
    secretProviderClass: {{ $key.secretProviderClass }}
    {{- else }}
    secretProviderClass: {{ include "apim-auth-proxy.fullname" $root }}-{{ $name }}
    {{- end }}
{{- end -}}
{{- end -}}
