"""Whether a NetworkPolicy lets its pods connect to an address. No I/O. Peers by label are no addresses and are passed over."""

from __future__ import annotations

import ipaddress
from typing import Any


def admits_egress(policy: dict[str, Any], address: str, port: int, protocol: str = "TCP") -> bool:
    """Return whether any egress rule has a range with the address in it, and the port."""
    assert "Egress" in policy["spec"]["policyTypes"]
    return any(
        _has_port(rule, port, protocol)
        and ("to" not in rule or any(_has_address(peer, address) for peer in rule["to"]))
        for rule in policy["spec"]["egress"]
    )


def _has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(each["port"] == port and each["protocol"] == protocol for each in ports)


def _has_address(peer: dict[str, Any], address: str) -> bool:
    block = peer.get("ipBlock")
    return (
        block is not None
        and _within(address, block["cidr"])
        and not any(_within(address, exception) for exception in block.get("except", []))
    )


def _within(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)
