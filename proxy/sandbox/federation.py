"""Verify the token of a managed identity that an application trusts as a federated credential. Does no I/O.

The platform has issued it itself, for the audience of token exchange. Issuer, subject and audience are compared exactly, and
each has a code of its own, as with the real service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from proxy.sandbox.aadsts import AadstsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from proxy.sandbox.assertions import Assertion
    from proxy.sandbox.registrations import ClientApplication


def verify_federated(
    assertion: Assertion,
    client: ClientApplication,
    *,
    keys: Mapping[str, RSAPublicKey],
    find_audience: Callable[[str], str],
    now: float,
) -> None:
    """Refuse what is no token of an identity that the client trusts.

    Args:
        assertion: as received.
        client: whose proof it should be.
        keys: what verifies tokens of this platform, by ``kid``.
        find_audience: from an audience as it is registered to the ``aud`` of tokens for it.
        now: Unix seconds.

    Raises:
        AadstsError: with the code for the first thing that is wrong.
    """
    claims = assertion.claims
    issued = [each for each in client.federated if each.issuer == claims.get("iss")]
    if not issued:
        raise AadstsError(
            700211, f"No federated credential has the assertion's issuer '{str(claims.get('iss'))[:200]}'."
        )
    meant = [each for each in issued if each.subject == claims.get("sub")]
    if not meant:
        raise AadstsError(
            700213, f"No federated credential has the assertion's subject '{str(claims.get('sub'))[:200]}'."
        )
    if claims.get("aud") not in {find_audience(each.audience) for each in meant}:
        raise AadstsError(
            700212, f"No federated credential has the assertion's audience '{str(claims.get('aud'))[:200]}'."
        )
    key = keys.get(str(assertion.header.get("kid")))
    try:
        if key is None or assertion.header.get("alg") != "RS256":
            raise InvalidSignature
        key.verify(assertion.signature, assertion.signing_input, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise AadstsError(700027, "The signature of the federated token cannot be accepted.") from None
    ends_at = claims.get("exp")
    if not isinstance(ends_at, int | float) or ends_at <= now:
        raise AadstsError(700024, "The federated token has expired.")
