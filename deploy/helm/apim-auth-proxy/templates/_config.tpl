{{/* The proxy's configuration: what the values say, and what only the chart knows. */}}
{{- define "apim-auth-proxy.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $listeners := list -}}
{{- if .Values.forward.enabled -}}
  {{- $forward := dict "address" (printf "0.0.0.0:%d" (int .Values.forward.port)) "mode" "forward" -}}
  {{- with .Values.forward.tlsKey -}}
    {{- $_ := set $forward "tls" (dict "certificate" (printf "/keys/%s/tls.crt" .) "private_key" (printf "/keys/%s/tls.key" .)) -}}
  {{- end -}}
  {{- $listeners = append $listeners $forward -}}
{{- end -}}
{{- range .Values.reverse -}}
  {{- $reverse := dict "address" (printf "0.0.0.0:%d" (int .port)) "mode" "reverse" "upstream" .upstream -}}
  {{- with .server_names }}{{ $_ := set $reverse "server_names" . }}{{ end -}}
  {{- $listeners = append $listeners $reverse -}}
{{- end -}}
{{- $_ := set $config "listeners" $listeners -}}
{{- $admin := dict "address" (printf "0.0.0.0:%d" (int .Values.admin.port)) -}}
{{- if .Values.admin.token.secret -}}
  {{- $_ := set $admin "token_file" (printf "/admin/%s" .Values.admin.token.key) -}}
{{- end -}}
{{- $_ := set $config "admin" $admin -}}
{{- with .Values.interception.caKey -}}
  {{- $_ := set $config "interception" (dict "ca_certificate" (printf "/keys/%s/tls.crt" .) "ca_private_key" (printf "/keys/%s/tls.key" .)) -}}
{{- end -}}
{{- /* The NetworkPolicy lets only the right pods through. */ -}}
{{- if and .Values.networkPolicy.enabled (not $config.clients) (not (hasKey $config "allow_any_client")) -}}
  {{- $_ := set $config "allow_any_client" true -}}
{{- end -}}
{{- $_ := set $config "timeouts" (merge (default dict $config.timeouts) (dict "drain_delay_s" (float64 (include "apim-auth-proxy.drainDelay" .)))) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Seconds in which nodes and clients hear that a pod no longer takes connections; it takes them until then. */}}
{{- define "apim-auth-proxy.drainDelay" -}}
{{- $timeouts := default dict .Values.config.timeouts -}}
{{- if hasKey $timeouts "drain_delay_s" }}{{ $timeouts.drain_delay_s }}{{ else }}5{{ end -}}
{{- end -}}

{{/* Above drain_delay_s and drain_s together. */}}
{{- define "apim-auth-proxy.gracePeriod" -}}
{{- $timeouts := default dict .Values.config.timeouts -}}
{{- $drain := ternary $timeouts.drain_s 30 (hasKey $timeouts "drain_s") -}}
{{- add (ceil (float64 (include "apim-auth-proxy.drainDelay" .))) (ceil (float64 $drain)) 10 -}}
{{- end -}}

{{/* The domains that the routes need a CA for: of api.example.com:8443 the name, of *.example.com all below example.com. */}}
{{- define "apim-auth-proxy.permittedDomains" -}}
{{- $domains := .Values.interception.permittedDomains -}}
{{- if not $domains -}}
  {{- range .Values.config.routes -}}
    {{- range .hosts -}}
      {{- $domains = append $domains (regexReplaceAll ":[0-9]+$" (trimPrefix "*." .) "") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toYaml (uniq $domains) -}}
{{- end -}}
