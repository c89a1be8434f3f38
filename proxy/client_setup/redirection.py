"""Rules for nftables that lead programs' connections to a transparent listener, as a file for nft(8). Pure: does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TABLE: Final = "apim_auth_proxy"
WAY_BACK: Final = f"nft delete table inet {TABLE}"
PORTS: Final = (80, 443)


@dataclass(frozen=True, slots=True)
class Redirection:
    """What is to be redirected, and where.

    Attributes:
        port: of the transparent listener, on this machine.
        user: that the proxy runs as, by name or number; None where the programs are on other machines.
        inside: the network interface that other machines' connections come in by; None where the programs are on this machine.
    """

    port: int
    user: str | None = None
    inside: str | None = None


def format_rules(redirection: Redirection) -> str:
    """Return a file for ``nft -f``; run again, it replaces the rules that it has made."""
    if redirection.inside is None:
        about = (
            "# Leads what programs on this machine, or in this pod, send to ports 80 and 443 to the proxy's transparent listener.\n"
            "# The proxy itself is exempt by its user, or its own connections would come back to it.\n"
        )
        defined = f"define proxy_user = {redirection.user}\ndefine proxy_port = {redirection.port}\n"
        chains = _HERE
    else:
        about = (
            "# For a gateway: leads what other machines send through this one to ports 80 and 443 to the proxy's transparent\n"
            "# listener. What this machine sends itself, the proxy's connections among it, is left alone.\n"
        )
        defined = f'define inside = "{redirection.inside}"\ndefine proxy_port = {redirection.port}\n'
        chains = _GATEWAY
    return f"""#!/usr/sbin/nft -f
{about}# The way back: {WAY_BACK}

{defined}
# Made before it is deleted, because deleting what is not there is an error: so this file can be run again.
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
{chains}}}
"""


_HERE: Final = """\
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
"""
_GATEWAY: Final = """\
    chain redirected {
        type nat hook prerouting priority dstnat; policy accept;
        iifname != $inside return
        fib daddr type local return
        tcp dport { 80, 443 } redirect to :$proxy_port
    }
    # QUIC cannot be redirected to a TCP listener: refused, programs come back over TCP.
    chain refused {
        type filter hook forward priority filter; policy accept;
        iifname $inside udp dport 443 reject
    }
"""
