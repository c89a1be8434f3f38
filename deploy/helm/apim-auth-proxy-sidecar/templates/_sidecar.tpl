{{/*
  A chart that depends on this library includes, with its own root context:

    initContainers:  {{- include "apim-auth-proxy.sidecar" . | nindent 8 }}          the sidecar, as an entry of the list
    volumes:         {{- include "apim-auth-proxy.sidecar.volumes" . | nindent 8 }}  what it mounts, as entries of the list
    env:             {{- include "apim-auth-proxy.sidecar.env" . | nindent 12 }}     how the program finds it
    a file:          {{- include "apim-auth-proxy.sidecar.configmap" . }}            its configuration

  With `redirected` in the values, the first of these is two entries: an init container that sets nftables rules, and the sidecar.

  For a program that can be told of no proxy, with `steered` in the values:

    hostAliases:     {{- include "apim-auth-proxy.sidecar.hostAliases" . | nindent 8 }}
    securityContext: sysctls: {{- include "apim-auth-proxy.sidecar.sysctls" . | nindent 10 }}
*/}}

{{- define "apim-auth-proxy.sidecar.values" -}}
{{- index .Values "apim-auth-proxy-sidecar" | toYaml -}}
{{- end -}}

{{- define "apim-auth-proxy.sidecar.name" -}}
{{- printf "%s-apim-auth-proxy" (.Release.Name | trunc 46 | trimSuffix "-") -}}
{{- end -}}

{{- define "apim-auth-proxy.sidecar" -}}
{{- $values := include "apim-auth-proxy.sidecar.values" . | fromYaml -}}
{{- include "apim-auth-proxy.sidecar.checks" $values -}}
{{- if $values.redirected.enabled -}}
# Sets the rules and ends. First, so that nothing that follows gets past the proxy.
- name: apim-auth-proxy-rules
  {{- with $values.redirected.image }}
  image: {{ ternary (printf "%s@%s" .repository .digest) (printf "%s:%s" .repository .tag) (ne .digest "") | quote }}
  imagePullPolicy: {{ .pullPolicy }}
  {{- end }}
  command: [nft]
  args: [-f, /etc/apim-auth-proxy/rules.nft]
  securityContext:
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml $values.redirected.resources | nindent 4 }}
  volumeMounts:
    - name: apim-auth-proxy-config
      mountPath: /etc/apim-auth-proxy
      readOnly: true
{{ end -}}
- name: apim-auth-proxy
  {{- with $values.image }}
  image: {{ ternary (printf "%s@%s" .repository .digest) (printf "%s:%s" .repository (.tag | default "0.1.0")) (ne .digest "") | quote }}
  imagePullPolicy: {{ .pullPolicy }}
  {{- end }}
  # A sidecar: it starts before the program, and ends after it.
  restartPolicy: Always
  args: [run, --config, /etc/apim-auth-proxy/config.yaml]
  {{- with $values.secretEnv }}
  env:
    {{- range $name, $from := . }}
    - name: {{ $name }}
      valueFrom:
        secretKeyRef:
          name: {{ $from.secret }}
          key: {{ $from.key }}
    {{- end }}
  {{- end }}
  ports:
    - name: proxy-admin
      containerPort: {{ int $values.admin.port }}
      protocol: TCP
  startupProbe:
    httpGet: { path: /startupz, port: proxy-admin }
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: { path: /readyz, port: proxy-admin }
    periodSeconds: 5
    failureThreshold: 2
  livenessProbe:
    httpGet: { path: /livez, port: proxy-admin }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: apim-auth-proxy-config
      mountPath: /etc/apim-auth-proxy
      readOnly: true
    - name: apim-auth-proxy-state
      mountPath: /state
    {{- range $name, $_ := $values.keys }}
    - name: apim-auth-proxy-key-{{ $name }}
      mountPath: /keys/{{ $name }}
      readOnly: true
    {{- end }}
    {{- if $values.admin.token.secret }}
    - name: apim-auth-proxy-admin
      mountPath: /admin
      readOnly: true
    {{- end }}
{{- end -}}

{{- define "apim-auth-proxy.sidecar.volumes" -}}
{{- $values := include "apim-auth-proxy.sidecar.values" . | fromYaml -}}
- name: apim-auth-proxy-config
  configMap:
    name: {{ include "apim-auth-proxy.sidecar.name" . }}
- name: apim-auth-proxy-state
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- range $name, $key := $values.keys }}
- name: apim-auth-proxy-key-{{ $name }}
  {{- if $key.secret }}
  secret:
    secretName: {{ $key.secret }}
    defaultMode: 0440
  {{- else if $key.configMap }}
  configMap:
    name: {{ $key.configMap }}
  {{- else if $key.serviceAccountToken }}
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ $key.serviceAccountToken.audience | quote }}
          expirationSeconds: {{ int (default 3600 $key.serviceAccountToken.expirationSeconds) }}
  {{- else }}
  csi:
    driver: secrets-store.csi.k8s.io
    readOnly: true
    volumeAttributes:
      secretProviderClass: {{ $key.secretProviderClass }}
  {{- end }}
{{- end }}
{{- with $values.admin.token }}
{{- if .secret }}
- name: apim-auth-proxy-admin
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: {{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "apim-auth-proxy.sidecar.env" -}}
{{- $values := include "apim-auth-proxy.sidecar.values" . | fromYaml -}}
{{- $proxy := printf "http://127.0.0.1:%d" (int $values.port) -}}
{{- /* Programs read one spelling or the other. */ -}}
{{- $names := list "http_proxy" "HTTP_PROXY" -}}
{{- /* An https URL is a tunnel: to a routed host the program has to trust the CA, and to others the proxy refuses it. */ -}}
{{- if $values.interception.caKey }}{{ $names = concat $names (list "https_proxy" "HTTPS_PROXY") }}{{ end -}}
{{- range $names }}
- name: {{ . }}
  value: {{ $proxy | quote }}
{{- end }}
{{- range list "no_proxy" "NO_PROXY" }}
- name: {{ . }}
  value: {{ join "," $values.noProxy | quote }}
{{- end }}
{{- end -}}

{{/* The names of APIs as the pod's loopback addresses, one for each, where listeners at their ports wait. */}}
{{- define "apim-auth-proxy.sidecar.hostAliases" -}}
{{- $values := include "apim-auth-proxy.sidecar.values" . | fromYaml -}}
{{- range $index, $steered := $values.steered }}
- ip: {{ include "apim-auth-proxy.sidecar.address" $index }}
  hostnames: [{{ $steered.host | quote }}]
{{- end }}
{{- end -}}

{{/* A safe one: Pod Security "restricted" admits it, and the proxy needs no capability for ports 443 and 80. */}}
{{- define "apim-auth-proxy.sidecar.sysctls" -}}
- name: net.ipv4.ip_unprivileged_port_start
  value: "0"
{{- end -}}

{{- define "apim-auth-proxy.sidecar.address" -}}
{{- printf "127.0.0.%d" (add 2 (int .)) -}}
{{- end -}}

{{- define "apim-auth-proxy.sidecar.configmap" -}}
{{- $values := include "apim-auth-proxy.sidecar.values" . | fromYaml -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "apim-auth-proxy.sidecar.name" . }}
  namespace: {{ .Release.Namespace }}
data:
  config.yaml: |
    {{- include "apim-auth-proxy.sidecar.config" $values | nindent 4 }}
  {{- if $values.redirected.enabled }}
  rules.nft: |
    {{- include "apim-auth-proxy.sidecar.rules" $values | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The configuration: what the values say, and listeners on the pod's loopback address. */}}
{{- define "apim-auth-proxy.sidecar.config" -}}
{{- $config := deepCopy .config -}}
{{- $listeners := list (dict "address" (printf "127.0.0.1:%d" (int .port)) "mode" "forward") -}}
{{- range .reverse -}}
  {{- $listeners = append $listeners (dict "address" (printf "127.0.0.1:%d" (int .port)) "mode" "reverse" "upstream" .upstream) -}}
{{- end -}}
{{- range $index, $steered := .steered -}}
  {{- $address := include "apim-auth-proxy.sidecar.address" $index -}}
  {{- $listener := dict "mode" "reverse" "upstream" (printf "https://%s" $steered.host) -}}
  {{- $listeners = append $listeners (merge (dict "address" (printf "%s:80" $address)) $listener) -}}
  {{- with $steered.certificateKey -}}
    {{- $tls := dict "certificate" (printf "/keys/%s/tls.crt" .) "private_key" (printf "/keys/%s/tls.key" .) -}}
    {{- $listeners = append $listeners (merge (dict "address" (printf "%s:443" $address) "tls" $tls) $listener) -}}
  {{- end -}}
{{- end -}}
{{- if .redirected.enabled -}}
  {{- range ternary (list "127.0.0.1" "[::1]") (list "127.0.0.1") .redirected.ipv6 -}}
    {{- $listeners = append $listeners (dict "address" (printf "%s:%d" . (int $.redirected.port)) "mode" "transparent") -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $config "listeners" $listeners -}}
{{- /* For the kubelet's probes the admin site listens on all addresses. Without a token it shows those alone, and then nothing else
       that other pods reach is there: so nobody has to be kept out. */ -}}
{{- $admin := dict "address" (printf "0.0.0.0:%d" (int .admin.port)) -}}
{{- if .admin.token.secret -}}
  {{- $_ := set $admin "token_file" (printf "/admin/%s" .admin.token.key) -}}
{{- else -}}
  {{- $_ := set $config "allow_any_client" true -}}
{{- end -}}
{{- $_ := set $config "admin" $admin -}}
{{- with .interception.caKey -}}
  {{- $_ := set $config "interception" (dict "ca_certificate" (printf "/keys/%s/tls.crt" .) "ca_private_key" (printf "/keys/%s/tls.key" .)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "apim-auth-proxy.sidecar.checks" -}}
{{- $keys := default dict .keys -}}
{{- if and .interception.caKey (not (hasKey $keys .interception.caKey)) -}}
  {{- fail (printf "apim-auth-proxy-sidecar: interception.caKey names %q, and keys has no such entry." .interception.caKey) -}}
{{- end -}}
{{- if .redirected.enabled -}}
  {{- if not .interception.caKey -}}
    {{- fail "apim-auth-proxy-sidecar: redirected.enabled needs interception.caKey: the program does not trust a CA that each pod makes for itself." -}}
  {{- end -}}
  {{- if not (and .redirected.image.repository (or .redirected.image.tag .redirected.image.digest)) -}}
    {{- fail "apim-auth-proxy-sidecar: redirected.enabled needs redirected.image: repository, and tag or digest, of an image with nft." -}}
  {{- end -}}
  {{- if eq (int .redirected.port) (int .port) -}}
    {{- fail "apim-auth-proxy-sidecar: redirected.port and port are the same." -}}
  {{- end -}}
{{- end -}}
{{- range $steered := .steered -}}
  {{- if and $steered.certificateKey (not (hasKey $keys $steered.certificateKey)) -}}
    {{- fail (printf "apim-auth-proxy-sidecar: steered names the certificate %q, and keys has no such entry." $steered.certificateKey) -}}
  {{- end -}}
  {{- $dials := false -}}
  {{- range $.config.routes -}}
    {{- if and (has $steered.host .hosts) .dial -}}{{- $dials = true -}}{{- end -}}
  {{- end -}}
  {{- if not $dials -}}
    {{- fail (printf "apim-auth-proxy-sidecar: steered leads %s to the proxy, which reads the same hosts file. Add `dial: %s:443` to its route: that name is looked up by DNS alone." $steered.host $steered.host) -}}
  {{- end -}}
{{- end -}}
{{- range regexFindAll "/keys/[^/\\s\"']+" (toYaml .config) -1 -}}
  {{- if not (hasKey $keys (trimPrefix "/keys/" .)) -}}
    {{- fail (printf "apim-auth-proxy-sidecar: config names a file below %s, and keys has no entry %q." . (trimPrefix "/keys/" .)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
