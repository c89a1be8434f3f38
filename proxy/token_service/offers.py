"""Which token belongs to which host or resource, by the routes of a configuration. Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.identity.credential import Target
from proxy.policy.routing import RouteTable, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.config.settings import Settings
    from proxy.identity.source import TokenSource
    from proxy.identity.sources import TokenSources
    from proxy.policy.authority import Authority
    from proxy.token_service.questions import TokenQuestion

_DEFAULT_SCOPE: Final = "/.default"


@dataclass(frozen=True, slots=True)
class Offer:
    """The token of one route.

    Attributes:
        route: its name.
        credential: whose token it is.
        client_id: of that credential.
        source: hands it out.
        resource: what a program asks for to get it.
    """

    route: str
    credential: str
    client_id: str
    source: TokenSource
    resource: str


class Offers:
    """The tokens of all routes.

    Args:
        settings: whose routes.
        tokens: their sources.
    """

    def __init__(self, settings: Settings, tokens: TokenSources) -> None:
        self._offers = [
            Offer(
                route.hosts[0],
                route.credential,
                settings.credentials[route.credential].client_id or "",
                tokens.source_for(route.credential, Target(scope=route.scope, resource=route.resource)),
                route.resource or (route.scope or "").removesuffix(_DEFAULT_SCOPE),
            )
            for route in settings.routes
        ]
        self._table = RouteTable(
            (parse_host_pattern(text), index) for index, route in enumerate(settings.routes) for text in route.hosts
        )

    def for_host(self, authority: Authority) -> Offer | None:
        """Return the token for requests to an authority; None where no route has it."""
        index = self._table.find(authority)
        return None if index is None else self._offers[index]

    def names(self, host: str) -> bool:
        """Return whether a route has a host, at whatever port."""
        return self._table.names(host)

    def for_resource(self, question: TokenQuestion, may_use: Callable[[str], bool]) -> Offer | None:
        """Return the token that a program asks for: of several, the first route's.

        Args:
            question: what it asks.
            may_use: says of a route's name whether this client may.
        """
        return next(
            (
                offer
                for offer in self._offers
                if question.resource in _spellings(offer.resource)
                and question.client_id in (None, offer.client_id)
                and may_use(offer.route)
            ),
            None,
        )

    def resources(self, may_use: Callable[[str], bool]) -> list[str]:
        """Return what a client may ask for."""
        return list(dict.fromkeys(offer.resource for offer in self._offers if may_use(offer.route)))


def _spellings(resource: str) -> Iterator[str]:
    """Yield how SDKs write a resource: some keep the slash that a URI ends in, some drop it."""
    yield resource
    yield f"{resource}/"
    if resource.endswith("/"):
        yield resource.removesuffix("/")
