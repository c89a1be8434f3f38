"""How every connection leaves: relayed requests, tunnels, token requests, and what the doctor tries.

dialer       directly, to an address that was looked at first; or through the upstream proxy
opening        the CONNECT request to the upstream proxy, and its answer
proxy_tls      an upstream proxy that is spoken to over TLS
building     a dialer from the settings
"""
