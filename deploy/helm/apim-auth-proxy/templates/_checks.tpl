{{/* What a schema cannot say: values that do not go together. Renders nothing, or fails with a sentence. */}}
{{- define "apim-auth-proxy.checks" -}}
{{- $replicas := int (ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled) -}}
{{- $many := gt $replicas 1 -}}
{{- if and .Values.interception.enabled $many (not .Values.interception.caKey) -}}
  {{- fail "interception.enabled with more than one replica needs interception.caKey: each replica would make a CA of its own, and a client would have to trust them all. Name the entry of keys that holds an intermediate CA, or set replicas to 1." -}}
{{- end -}}
{{- if and .Values.state.existingClaim $many -}}
  {{- fail "state.existingClaim keeps the CA of one proxy: set replicas to 1 and autoscaling.enabled to false, or name an intermediate CA in interception.caKey in place of it." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
  {{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas." -}}
{{- end -}}
{{- if not (or .Values.forward.enabled .Values.reverse) -}}
  {{- fail "Nothing would be listened on: set forward.enabled to true, or add an entry to reverse." -}}
{{- end -}}
{{- if not (or .Values.networkPolicy.enabled .Values.config.clients .Values.config.allow_any_client) -}}
  {{- fail "Every pod of the cluster could use the proxy's identity: set networkPolicy.enabled to true, say in config.clients who may use it, or set config.allow_any_client to true where something else keeps the others out." -}}
{{- end -}}
{{- if and .Values.config.clients (not .Values.config.allow_any_client) (not .Values.admin.token.secret) -}}
  {{- fail "config.clients needs admin.token.secret: the admin site listens on all addresses for the kubelet's probes, and where the network does not keep others out, a token has to." -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (not .Values.admin.token.secret) -}}
  {{- fail "podMonitor.enabled needs admin.token.secret: without the token in it, the admin site shows other pods the probes alone." -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.monitoring) -}}
  {{- fail "podMonitor.enabled needs networkPolicy.monitoring: name the peers that Prometheus runs in, or it cannot connect." -}}
{{- end -}}
{{- $named := dict "interception.caKey" .Values.interception.caKey "forward.tlsKey" .Values.forward.tlsKey -}}
{{- range $value, $key := $named -}}
  {{- if and $key (not (hasKey (default dict $.Values.keys) $key)) -}}
    {{- fail (printf "%s names %q, and keys has no such entry." $value $key) -}}
  {{- end -}}
{{- end -}}
{{- range regexFindAll "/keys/[^/\\s\"']+" (toYaml .Values.config) -1 -}}
  {{- if not (hasKey (default dict $.Values.keys) (trimPrefix "/keys/" .)) -}}
    {{- fail (printf "config names a file below %s, and keys has no entry %q." . (trimPrefix "/keys/" .)) -}}
  {{- end -}}
{{- end -}}
{{- $trust := .Values.interception.trust -}}
{{- if and $trust.configMap.enabled (not $trust.certificates) -}}
  {{- fail "interception.trust.configMap.enabled needs interception.trust.certificates: the PEM of what clients have to trust." -}}
{{- end -}}
{{- if and $trust.bundle.enabled (not $trust.certificates) (not $trust.bundle.secret) -}}
  {{- fail "interception.trust.bundle.enabled needs interception.trust.certificates, or interception.trust.bundle.secret." -}}
{{- end -}}
{{- $ports := list (int .Values.admin.port) -}}
{{- if .Values.forward.enabled }}{{ $ports = append $ports (int .Values.forward.port) }}{{ end -}}
{{- range .Values.reverse }}{{ $ports = append $ports (int .port) }}{{ end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
  {{- fail "admin.port, forward.port and the ports in reverse have to differ." -}}
{{- end -}}
{{- end -}}
