"""Client id + token endpoint + proofs: requests one token. Does network I/O through the endpoint; keeps no token.

A certificate that has expired or is not valid yet is passed over, and one is taken up from its first second on. Several
proofs may be had (an old and a new certificate during a change): the one that worked last goes first, and where the
platform does not accept a proof, the next one is tried in the same request. Where our clock is what it does not accept,
the assertion is made again by the platform's clock.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.errors import CredentialOutOfDate, CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.claims import merge_capabilities
from proxy.identity.token_response import ProofRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.identity.certificate import PublicCertificate
    from proxy.identity.proof.interface import Proof
    from proxy.identity.token_endpoint import TokenEndpoint
    from proxy.identity.token_response import TokenResponse

logger = logging.getLogger("proxy.identity")

# Our assertions tolerate two minutes of a clock that is fast and eight of one that is slow; Entra ID itself tolerates
# about five. A refusal with a smaller difference than this has another reason.
SMALLEST_CORRECTION_S = 30.0
# A time zone mistake is hours. Beyond a day the Date field is more likely to be wrong than the clock.
LARGEST_CORRECTION_S = 86_400.0
# The platform chooses its codes; a metric must not grow without bound by them.
_COUNTED_CODES = 64


@dataclass(frozen=True, slots=True)
class Target:
    """What a token is asked for: a scope (v2, RFC 6749 §3.3) or a resource (v1; RFC 8707 elsewhere)."""

    scope: str | None = None
    resource: str | None = None

    def __str__(self) -> str:
        return self.scope or self.resource or ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as the endpoint gave it.

    Attributes:
        value: the token.
        requested_at_mono: when the request for it was sent.
        expires_in_s, refresh_in_s: from that moment on.
        proof: name of the proof it was given for.
        age_s: how old it was at that moment: another replica may have got it from the endpoint.
    """

    value: str = field(repr=False)
    requested_at_mono: float
    expires_in_s: float
    refresh_in_s: float | None
    proof: str = ""
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CredentialStatistics:
    """A snapshot for metrics.

    Attributes:
        requests: token requests by (outcome, code); outcome is ``ok``, ``rejected``, ``unavailable`` or ``failed``.
        clock_skew_s: the platform's clock less ours; None before an answer.
        clock_correction_s: what is added to our clock in assertions; 0 normally.
        proof_in_use: name of the proof that worked last; empty before one did.
        starts: by name of the proof, when its certificate begins to be valid, where that is known.
        expirations: by name of the proof, when its certificate ends, where that is known.
    """

    requests: Mapping[tuple[str, str], int]
    clock_skew_s: float | None
    clock_correction_s: float
    proof_in_use: str
    expirations: Mapping[str, datetime]
    starts: Mapping[str, datetime] = field(default_factory=dict)


class RequestCounts:
    """Token requests by outcome and code; bounded, because the platform chooses its codes."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, outcome: str, code: str) -> None:
        """Count one."""
        key = (outcome, code)
        if key not in self._counts and len(self._counts) >= _COUNTED_CODES:
            key = (outcome, "other")
        self._counts[key] += 1

    def add_error(self, error: IdentityError) -> None:
        """Count a failure by its kind and code."""
        self.add(_outcome(error), error.code)

    def snapshot(self) -> Mapping[tuple[str, str], int]:
        """Return a copy."""
        return dict(self._counts)


class Credential:
    """What proves us to one token endpoint."""

    def __init__(
        self,
        name: str,
        *,
        client_id: str,
        endpoint: TokenEndpoint,
        proofs: Sequence[Proof],
        resource_url: str | None = None,
        audience: str | None = None,
        parameters: Mapping[str, str] | None = None,
        capabilities: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Bring the parts together.

        Args:
            name: its key in the configuration.
            client_id: who we are.
            endpoint: where to ask; closed with this object.
            proofs: at least one, in order of preference.
            resource_url: where a v1 request goes; default: the endpoint's URL.
            audience: of the assertion; default: the URL that is posted to.
            parameters: further form fields.
            capabilities: what this client announces, such as ``cp1``.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
        """
        self.name = name
        self.endpoint = endpoint
        self.client_id = client_id
        self._resource_url = resource_url or endpoint.url
        self._audience = audience
        self._parameters = dict(parameters or {})
        self._capabilities = tuple(capabilities)
        self._clock = clock
        self._wall_clock = wall_clock
        self._proofs = tuple(proofs)
        self._preferred: Proof | None = None
        self._retired: Proof | None = None
        self._in_use = ""
        self._correction_s = 0.0
        self._counts = RequestCounts()
        self._awaited = self._find_awaited()

    @property
    def origin(self) -> str:
        """Whom it asks: scheme, host and port."""
        return self.endpoint.origin

    @property
    def throttled_as(self) -> tuple[str, str]:
        """By what the endpoint tells it apart from others that ask too often: URL and client id."""
        return self.endpoint.url, self.client_id

    def name_token(self, target: Target, claims: str | None) -> str | None:
        """Return what tells a token apart from all others that replicas may share."""
        # One that is bound to a certificate is of use to whoever shows that certificate.
        bound = [proof.certificate.x5t_s256 for proof in self._proofs if proof.tls is not None and proof.certificate]
        asked = merge_capabilities(claims, self._capabilities)
        parts = [self.endpoint.url, self.client_id, target.scope, target.resource, asked, self._parameters, bound]
        return json.dumps(parts, sort_keys=True)

    async def request_token(self, target: Target, claims: str | None) -> IssuedToken:
        """Ask for one token, with each proof in turn until one is accepted.

        Args:
            target: what for.
            claims: JSON text for the ``claims`` parameter (OpenID Connect Core §5.5), or None.

        Raises:
            CredentialRejected: the platform said no.
            IdentityPlatformUnavailable: the platform gave no usable answer.
            CredentialOutOfDate: there is no certificate whose dates allow it; the platform was not asked.
            IdentityError: no proof could be made.
        """
        self._require_dates()
        failures: list[tuple[Proof, IdentityError]] = []
        for proof in self._order_proofs():
            try:
                issued = await self._request_with(proof, target, claims)
            except IdentityPlatformUnavailable:
                raise
            except IdentityError as error:
                failures.append((proof, error))
                if isinstance(error, CredentialRejected) and not isinstance(error, ProofRejected):
                    raise
                continue
            self._remember(proof)
            return issued
        raise _combine(failures)

    def replace_proofs(self, proofs: Sequence[Proof]) -> None:
        """Use other proofs from now on.

        The one that worked last stays as a last resort until a new one has worked: a certificate may be changed here
        before the platform knows it.
        """
        self._retired = self._preferred or self._retired
        self._proofs = tuple(proofs)
        self._preferred = None
        self._awaited = self._find_awaited()

    def date_problems(self) -> list[str]:
        """Return what is wrong with the dates of certificates that are left out for it, a sentence each."""
        return [problem for proof in self._proofs if (problem := self._date_problem(proof)) is not None]

    def out_of_date(self) -> CredentialOutOfDate | None:
        """Return why no token can be asked for at present, where that is due to the dates of every certificate."""
        known = self._list_proofs()
        problems = [problem for proof in known if (problem := self._date_problem(proof)) is not None]
        if len(problems) < len(known):
            return None
        code = "certificate_not_yet_valid" if self._find_awaited() else "certificate_expired"
        return CredentialOutOfDate(" ".join(problems), code=code)

    def take_up_certificates(self) -> bool:
        """Prefer the configured order again once another certificate has become valid; True: one has, since the last look."""
        if not self._awaited or all(self._date_problem(proof) is not None for proof in self._awaited):
            return False
        self.replace_proofs(self._proofs)
        return True

    def statistics(self) -> CredentialStatistics:
        """Return a snapshot."""
        return CredentialStatistics(
            requests=self._counts.snapshot(),
            clock_skew_s=self.endpoint.clock_skew_s,
            clock_correction_s=self._correction_s,
            proof_in_use=self._in_use,
            expirations={name: certificate.not_after for name, certificate in self._certificates()},
            starts={name: certificate.not_before for name, certificate in self._certificates()},
        )

    def _require_dates(self) -> None:
        error = self.out_of_date()
        if error is not None:
            self._counts.add_error(error)
            raise error

    def _order_proofs(self) -> list[Proof]:
        return [proof for proof in self._list_proofs() if self._date_problem(proof) is None]

    def _list_proofs(self) -> list[Proof]:
        ordered = [proof for proof in (self._preferred, *self._proofs, self._retired) if proof is not None]
        return list(dict.fromkeys(ordered))

    def _certificates(self) -> list[tuple[str, PublicCertificate]]:
        return [(proof.name, proof.certificate) for proof in self._proofs if proof.certificate is not None]

    def _date_problem(self, proof: Proof) -> str | None:
        certificate = proof.certificate
        # One that was read from a vault is not passed over: there may be another by now.
        if certificate is None or certificate.file is None:
            return None
        return certificate.date_problem(self._now())

    def _find_awaited(self) -> tuple[Proof, ...]:
        """Return the proofs whose certificates are not valid yet."""
        now = self._now()
        return tuple(
            proof for proof in self._proofs if proof.certificate is not None and now < proof.certificate.not_before
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock() + self._correction_s, UTC)

    async def _request_with(self, proof: Proof, target: Target, claims: str | None) -> IssuedToken:
        try:
            return await self._post(proof, target, claims)
        except ProofRejected as error:
            if not self._correct_clock(error):
                raise
        return await self._post(proof, target, claims)

    async def _post(self, proof: Proof, target: Target, claims: str | None) -> IssuedToken:
        url = self.endpoint.url if target.resource is None else self._resource_url
        try:
            proven = await proof.form_fields(
                client_id=self.client_id,
                audience=self._audience or url,
                now=self._wall_clock() + self._correction_s,
            )
            form = {"client_id": self.client_id, "grant_type": "client_credentials", **self._parameters, **proven}
            if target.scope is not None:
                form["scope"] = target.scope
            if target.resource is not None:
                form["resource"] = target.resource
            asked = merge_capabilities(claims, self._capabilities)
            if asked is not None:
                form["claims"] = asked
            requested_at_mono = self._clock()
            response = await self.endpoint.request(form, str(uuid.uuid4()), url, proof.tls)
        except IdentityError as error:
            self._counts.add_error(error)
            raise
        self._counts.add(outcome="ok", code="")
        self._follow_clock()
        self._log_success(target, response, proof)
        return IssuedToken(
            response.access_token, requested_at_mono, response.expires_in_s, response.refresh_in_s, proof.name
        )

    def _remember(self, proof: Proof) -> None:
        if proof.name != self._in_use:
            if self._in_use or proof is not self._proofs[0]:
                logger.warning("credential %s: the identity platform accepts %s; it is used", self.name, proof.name)
            self._in_use = proof.name
        if proof is not self._retired:
            # A retired one is never preferred: its successor is tried again each time, until the platform knows it.
            self._preferred, self._retired = proof, None

    def _correct_clock(self, error: ProofRejected) -> bool:
        """Adopt the platform's clock where the refusal may be due to ours; True: it makes sense to try again."""
        skew_s = self.endpoint.clock_skew_s
        about_time = error.code == "AADSTS700024" or not error.code.startswith("AADSTS")
        if skew_s is None or not about_time or abs(skew_s) > LARGEST_CORRECTION_S:
            return False
        if abs(skew_s - self._correction_s) < SMALLEST_CORRECTION_S:
            return False
        self._correction_s = skew_s
        logger.warning(
            "credential %s: this machine's clock is %.0f s %s by the identity platform's, which refuses assertions for"
            " it; assertions are dated by the platform's clock from now on. Synchronise the clock (NTP).",
            self.name,
            abs(skew_s),
            "slow" if skew_s > 0 else "fast",
        )
        return True

    def _follow_clock(self) -> None:
        """Keep a correction that is in force true, and end it when the clock has been set right."""
        skew_s = self.endpoint.clock_skew_s
        if self._correction_s and skew_s is not None and abs(skew_s) <= LARGEST_CORRECTION_S:
            self._correction_s = skew_s if abs(skew_s) >= SMALLEST_CORRECTION_S else 0.0

    def _log_success(self, target: Target, response: TokenResponse, proof: Proof) -> None:
        if response.notes:
            logger.warning("credential %s: token response corrected: %s", self.name, ", ".join(response.notes))
            for note in response.notes:
                self._counts.add(outcome="corrected", code=note)
        logger.info(
            "credential %s: access token for %s obtained with %s, good for %.0f s",
            self.name,
            target,
            proof.name,
            response.expires_in_s,
        )


def _outcome(error: IdentityError) -> str:
    if isinstance(error, CredentialRejected):
        return "rejected"
    return "unavailable" if isinstance(error, IdentityPlatformUnavailable) else "failed"


def _combine(failures: Sequence[tuple[Proof, IdentityError]]) -> IdentityError:
    """Return one error for all proofs: the last one's, which names the others' codes."""
    _, last = failures[-1]
    if len(failures) == 1:
        return last
    tried = "; ".join(f"{proof.name}: {error.code or error.title}" for proof, error in failures)
    return type(last)(f"{last.detail} Tried {tried}.", retry_after_s=last.retry_after_s, code=last.code)
