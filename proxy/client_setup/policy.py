"""The policy by which API Management lets in the proxy's tokens. Pure: does no I/O."""

from __future__ import annotations

_POLICY = """\
<policies>
  <inbound>
    <base />
    <validate-jwt header-name="Authorization" require-scheme="Bearer" failed-validation-httpcode="401"
                  failed-validation-error-message="Unauthorized. Access token is missing or invalid.">
      <openid-config url="{authority}/{tenant}/v2.0/.well-known/openid-configuration" />
      <audiences><audience>{api}</audience></audiences>
      <issuers><issuer>{authority}/{tenant}/v2.0</issuer></issuers>
      <required-claims><claim name="roles" match="any"><value>{role}</value></claim></required-claims>
    </validate-jwt>
  </inbound>
  <backend><base /></backend>
  <outbound><base /></outbound>
  <on-error><base /></on-error>
</policies>
"""


def format_policy(authority: str, tenant: str, api: str, role: str) -> str:
    """Return the policy for the tokens of one API.

    Args:
        authority: the cloud's sign-in host.
        tenant: its GUID, or what stands for it in a template.
        api: the API application's id, likewise.
        role: the app role that is asked for.
    """
    return _POLICY.format(authority=authority, tenant=tenant, api=api, role=role)
