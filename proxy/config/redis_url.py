"""Where replicas share tokens, as a URL. Does no I/O.

redis[s]://[USER@]HOST[:PORT][/DB]                    one server
redis[s]+cluster://[USER@]HOST[:PORT][,HOST[:PORT]…]  a cluster, by some of its nodes
redis[s]+sentinel://[USER@]HOST[:PORT][,…]/SERVICE[/DB]  whom the sentinels call the master
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from proxy.errors import ConfigurationError, MalformedRequest
from proxy.policy.authority import parse_authority

REDIS_SCOPE: Final = "https://redis.azure.com/.default"
"""What an access token for Azure Managed Redis is asked for with."""

_SCHEME: Final = re.compile(r"(rediss?)(?:\+(cluster|sentinel))?")
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_DB: Final = re.compile(r"\d{1,4}")
_PORTS: Final = {"": 6379, "cluster": 6379, "sentinel": 26379}


class Topology(Enum):
    """How many servers there are, and who says which one counts."""

    SERVER = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """The parts.

    Attributes:
        topology: see there.
        is_tls: with all of them.
        addresses: host and port; at least one.
        user: of an ACL; None for the default user.
        service: the name that sentinels know the master by; empty for the others.
        db: the number of the database.
    """

    topology: Topology
    is_tls: bool
    addresses: tuple[tuple[str, int], ...]
    user: str | None
    service: str
    db: int

    def __str__(self) -> str:
        """For the log."""
        return "Redis at " + ", ".join(f"{host}:{port}" for host, port in self.addresses)


def parse_redis_url(text: str) -> RedisUrl:
    """Return the parts of a URL.

    Raises:
        ConfigurationError: it is none of the three forms, or has a password in it.
    """
    scheme, separator, rest = text.partition("://")
    match = _SCHEME.fullmatch(scheme)
    if match is None or not separator:
        raise ConfigurationError(
            "write redis://host:6379/0, rediss:// for TLS, redis+cluster://host,host or redis+sentinel://host,host/service"
        )
    userinfo, at, hosts = rest.rpartition("@")
    if ":" in userinfo:
        raise ConfigurationError(
            "passwords do not belong in this URL; put it into a file, and name that in password_file"
        )
    if any(mark in hosts for mark in "?#"):
        raise ConfigurationError("this URL has no query or fragment; remove it")
    topology = Topology(match[2] or "")
    authorities, *path = hosts.split("/")
    addresses = tuple(_parse_address(one, _PORTS[topology.value]) for one in authorities.split(","))
    if len(addresses) > 1 and topology is Topology.SERVER:
        raise ConfigurationError("several hosts are a cluster (redis+cluster://) or sentinels (redis+sentinel://)")
    service = path.pop(0) if topology is Topology.SENTINEL and path else ""
    if topology is Topology.SENTINEL and not _SERVICE.fullmatch(service):
        raise ConfigurationError("sentinels have to be asked for a service: redis+sentinel://host,host/mymaster")
    db = path.pop(0) if path else ""
    if path or (db and not _DB.fullmatch(db)) or (db not in ("", "0") and topology is Topology.CLUSTER):
        raise ConfigurationError(
            "behind the host stands the number of a database, such as /0; a cluster has no other one"
        )
    return RedisUrl(
        topology, match[1] == "rediss", addresses, userinfo if at and userinfo else None, service, int(db or 0)
    )


def _parse_address(text: str, port: int) -> tuple[str, int]:
    try:
        authority = parse_authority(text.encode("utf-8", "surrogatepass"), port)
    except MalformedRequest as error:
        raise ConfigurationError(f"a host of the URL cannot be used. {error.detail}") from None
    return authority.host, authority.port
