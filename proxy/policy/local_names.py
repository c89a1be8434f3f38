"""Which names nobody on the internet can own, so that no web page of a stranger is at one. Pure: does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.policy.authority import Authority

# ICANN reserved `internal` for private use in 2024; `local` is multicast DNS (RFC 6762 §3), with `cluster.local` below it;
# `localhost` and `test` are RFC 6761 §6.2 and §6.3. `svc` is no top-level domain: Kubernetes' search list makes it one.
_LOCAL_DOMAINS: Final = frozenset(("internal", "local", "localhost", "svc", "test"))


def is_local_name(authority: Authority) -> bool:
    """Return whether the host is an address, a single label or a name below a domain that is never delegated.

    Args:
        authority: in canonical form.
    """
    host = authority.host
    return authority.is_ip or "." not in host or host.rpartition(".")[2] in _LOCAL_DOMAINS
