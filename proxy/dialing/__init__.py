"""How every connection leaves: relayed requests, tunnels, token requests, and what the doctor tries.

dialer       directly, to an address that was looked at first; or through the upstream proxy
resolver     the addresses of a name: shared, remembered, bounded
lookup       the two ways to ask for them
system_files what /etc/hosts, nsswitch.conf and resolv.conf say
descriptors  what is said when no file descriptor is left
keep_alive   TCP's probes on connections that are silent
opening      the CONNECT request to the upstream proxy, and its answer
proxy_tls      an upstream proxy that is spoken to over TLS
building     a dialer from the settings
"""
