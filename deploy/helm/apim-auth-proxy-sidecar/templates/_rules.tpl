{{/* deploy/nftables/sidecar.nft, by `make deploy-files`. */}}
{{- define "apim-auth-proxy.sidecar.rules" -}}
#!/usr/sbin/nft -f
# Leads what programs on this machine, or in this pod, send to ports 80 and 443 to the proxy's transparent listener.
# The proxy itself is exempt by its user, or its own connections would come back to it.
# The way back: nft delete table inet apim_auth_proxy

define proxy_user = 65532
define proxy_port = {{ int .redirected.port }}

# Made before it is deleted, because deleting what is not there is an error: so this file can be run again.
table inet apim_auth_proxy
delete table inet apim_auth_proxy
table inet apim_auth_proxy {
    chain redirected {
        type nat hook output priority -100; policy accept;
        meta skuid $proxy_user return
        fib daddr type local return
        tcp dport { 80, 443 } redirect to :$proxy_port
    }
    # QUIC cannot be redirected to a TCP listener: refused, programs come back over TCP.
    chain refused {
        type filter hook output priority filter; policy accept;
        meta skuid $proxy_user return
        fib daddr type local return
        udp dport 443 reject
    }
}
{{- end -}}
