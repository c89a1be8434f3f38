"""The commands of the Azure CLI that register what is not registered yet. Pure: does no I/O.

They follow the parameters of Azure CLI 2.91, and may be run again: what is there is not made twice. They run in a subshell that
ends at the first failure, so that nothing is built on an id that was never given, above all no policy.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from proxy.client_setup.clouds import ENDPOINTS, FEDERATION_AUDIENCES
from proxy.client_setup.policy import format_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.client_setup.registration import Registration

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

_BEGIN = """\
setopt interactive_comments 2> /dev/null || true
# The line above lets you paste this into zsh, which otherwise takes no comments.
# For az 2.91 or later (`az version`, `az upgrade`). Run `az login` first.
# Everything between the parentheses stops at the first failure. You can then run it again from the start.
(
set -eu
fail() {{ echo "$1" >&2; exit 1; }}
# Stop if az prints no id, before it ends up in the next command.
need() {{ case $2 in ''|None|null) fail "az printed no $1, so this stops here.";; esac; }}
# undo.sh gets what undoes each step, as it is done. Applications that were there before are not deleted by it.
undo() {{ [ -e undo.sh ] || echo "set -eu" > undo.sh; cat >> undo.sh; }}
# A new object is not known everywhere at once: wait for it.
await() {{
    tries=0
    until "$@" > /dev/null 2>&1; do tries=$((tries + 1)); [ $tries -lt 20 ] || fail "still not there: $*"; sleep 3; done
}}

[ "$(az cloud show --query name --output tsv)" = {cloud} ] ||
    fail "az is set to another cloud: az cloud set --name {cloud}, then az login."
TENANT_ID=$(az account show --query tenantId --output tsv)
need "tenant" "$TENANT_ID"
# The configuration is for this tenant. If you are logged in to another one, az would register everything there.
{wanted}
[ "$TENANT_ID" = "$WANTED" ] || fail "az is logged in to the tenant $TENANT_ID: az login --tenant $WANTED"
"""

_NAME_API = """
# Name the API Management service and the API in it:
GROUP=my-resource-group  SERVICE=contoso  API=orders
"""

_API = """
# The API application: what tokens are for. It decides the tokens' version and has the role. If an
# application with that display name exists, az changes it instead of creating another one.
ROLE_ID={role_id}
cat > roles.json <<'END'
[{{"id": "{role_id}", "value": "{role}", "displayName": "{role}",
  "description": "{role}, as an application", "allowedMemberTypes": ["Application"], "isEnabled": true}}]
END
WAS_THERE=$(az ad app list --filter "displayName eq '{name} API'" --query "length(@)" --output tsv)
need "list of applications" "$WAS_THERE"
API_ID=$(az ad app create --display-name "{name} API" --sign-in-audience AzureADMyOrg \\
    --requested-access-token-version 2 --app-roles @roles.json --query appId --output tsv)
need "id of the API application" "$API_ID"
[ "$WAS_THERE" -gt 0 ] || echo "az ad app delete --id $API_ID" | undo
await az ad app show --id "$API_ID"
az ad app update --id "$API_ID" --identifier-uris "api://$API_ID"
# Without a service principal: AADSTS500011
az ad sp show --id "$API_ID" > /dev/null 2>&1 || az ad sp create --id "$API_ID"
await az ad sp show --id "$API_ID"
# Let only applications with the role get a token:
az ad sp update --id "$API_ID" --set appRoleAssignmentRequired=true
"""

_KNOWN_API = """
# The API application is registered; its role is looked up.
API_ID=$(az ad sp show --id {identifier} --query appId --output tsv)
need "id of the API application" "$API_ID"
ROLE_ID=$(az ad sp show --id "$API_ID" --query "appRoles[?value=='{role}'].id | [0]" --output tsv)
need "role {role} of the API application" "$ROLE_ID"
"""

_CLIENT = """
# The client application: who asks, which is the proxy.
WAS_THERE=$(az ad app list --filter "displayName eq '{name} proxy'" --query "length(@)" --output tsv)
need "list of applications" "$WAS_THERE"
CLIENT_ID=$(az ad app create --display-name "{name} proxy" --sign-in-audience AzureADMyOrg --query appId --output tsv)
need "id of the client application" "$CLIENT_ID"
[ "$WAS_THERE" -gt 0 ] || echo "az ad app delete --id $CLIENT_ID" | undo
await az ad app show --id "$CLIENT_ID"
# Without a service principal: AADSTS7000229
az ad sp show --id "$CLIENT_ID" > /dev/null 2>&1 || az ad sp create --id "$CLIENT_ID"
await az ad sp show --id "$CLIENT_ID"
"""

_CERTIFICATE = """
# Upload the public part of the certificate. Without --append, az deletes other certificates and all secrets.
az ad app credential reset --id "$CLIENT_ID" --cert "@{certificate}" --append --output none
"""

_SYSTEM_IDENTITY = """
# The machine whose system-assigned identity the proxy uses. For App Service it is `az webapp identity show`, for Functions `az
# functionapp identity show`, for Container Apps `az containerapp identity show`, for Azure Arc `az connectedmachine show`.
MACHINE_GROUP=my-resource-group  MACHINE=my-machine
IDENTITY_SP=$(az vm identity show --resource-group "$MACHINE_GROUP" --name "$MACHINE" --query principalId --output tsv)
need "managed identity of the machine" "$IDENTITY_SP"
"""

_USER_IDENTITY = """
# The user-assigned identity that the proxy uses; assign it to the machine as well.
IDENTITY_SP=$(az ad sp show --id {identity} --query id --output tsv)
need "managed identity" "$IDENTITY_SP"
"""

_FEDERATED = """
# The application trusts the managed identity, unless it does: issuer, subject and audience are compared exactly. Microsoft's
# instructions are for user-assigned identities.
cat > federated.json <<END
{{"name": "apim-auth-proxy", "issuer": "{authority}/$TENANT_ID/v2.0", "subject": "$IDENTITY_SP",
  "audiences": ["{audience}"]}}
END
TRUSTED=$(az ad app federated-credential list --id "$CLIENT_ID" --query "length([?subject=='$IDENTITY_SP'])" --output tsv)
need "list of federated credentials" "$TRUSTED"
[ "$TRUSTED" -gt 0 ] || az ad app federated-credential create --id "$CLIENT_ID" --parameters @federated.json --output none
"""

_ROLE = """
# Request the role (=Role; =Scope would be for users), then grant it, unless it is granted already.
CLIENT_SP=$(az ad sp show --id "$CLIENT_ID" --query id --output tsv)
need "service principal of the client" "$CLIENT_SP"
az ad app permission add --id "$CLIENT_ID" --api "$API_ID" --api-permissions "$ROLE_ID=Role"
"""

_IDENTITYS_ROLE = """
# The role is granted to the managed identity itself, unless it is. The portal cannot do that.
CLIENT_SP=$IDENTITY_SP
"""

_GRANT = """\
API_SP=$(az ad sp show --id "$API_ID" --query id --output tsv)
need "service principal of the API" "$API_SP"
GRANTED=$(az rest --method get --url "{graph}/v1.0/servicePrincipals/$API_SP/appRoleAssignedTo" --output tsv \\
    --query "length(value[?principalId=='$CLIENT_SP' && appRoleId=='$ROLE_ID'])")
need "list of grants" "$GRANTED"
[ "$GRANTED" -gt 0 ] || az rest --method post --url "{graph}/v1.0/servicePrincipals/$API_SP/appRoleAssignedTo" \\
    --headers Content-Type=application/json \\
    --body "{{\\"principalId\\": \\"$CLIENT_SP\\", \\"resourceId\\": \\"$API_SP\\", \\"appRoleId\\": \\"$ROLE_ID\\"}}"
"""

_POLICY = """
# The policy. This replaces the API's policy: merge the old one, which policies.before.json keeps. rawxml, because xml wants
# expressions escaped.
POLICIES="/subscriptions/{{subscriptionId}}/resourceGroups/$GROUP/providers/Microsoft.ApiManagement/service/$SERVICE/apis/$API/policies"
if [ ! -e policies.before.json ]; then
    az rest --method get --url "$POLICIES?api-version=2024-05-01" > policies.before.part
    [ -s policies.before.part ] || fail "az printed no policies to keep, so this replaces none."
    mv policies.before.part policies.before.json
    undo <<END
python3 -c 'import json
old = [one["properties"]["value"] for one in json.load(open("policies.before.json"))["value"]]
value = old[0] if old else "{empty}"
print(json.dumps({{"properties": {{"format": "xml", "value": value}}}}))' > policy.undo.json
az rest --method put --body @policy.undo.json --headers Content-Type=application/json \\\\
    --url "$POLICIES/policy?api-version=2024-05-01"
END
fi
cat > policy.xml <<END
{policy}END
python3 -c 'import json
print(json.dumps({{"properties": {{"format": "rawxml", "value": open("policy.xml").read()}}}}))' > policy.json
az rest --method put --body @policy.json --headers Content-Type=application/json --url "$POLICIES/policy?api-version=2024-05-01"
"""

_WRITE_IDS = """
# Write the ids into the configuration, in place of its variables.
sed -i.before -e "s/[$]{{CLIENT_ID}}/${{CLIENT_ID:-}}/" -e "s/[$]{{API_ID}}/$API_ID/" {config}
rm -f {config}.before
"""

_END = """
# A grant takes effect within a minute or two; until then, tokens have no role.
apim-auth-proxy check --config {config} --online
[ ! -e undo.sh ] || echo "To undo all of it: sh undo.sh"
)
"""

_EMPTY_POLICY = (
    "<policies><inbound><base /></inbound><backend><base /></backend><outbound><base /></outbound>"
    "<on-error><base /></on-error></policies>"
)


def format_az(registration: Registration) -> str:
    """Return what is still to be done: nothing but a check, where all is registered and no certificate is new."""
    config = shlex.quote(registration.config)
    if registration.is_complete:
        return f"# Everything is registered.\napim-auth-proxy check --config {config} --online\n"
    return "".join(_sections(registration, config))


def _sections(registration: Registration, config: str) -> Iterator[str]:
    cloud = ENDPOINTS[registration.cloud]
    is_identity_alone = registration.identity is not None and not registration.is_federated
    knows_client, knows_api = registration.client_id is not None, registration.scope is not None
    yield _BEGIN.format(cloud=cloud.az_name, wanted=_find_wanted_tenant(registration.tenant, cloud.authority))
    if registration.identity == "system":
        yield _SYSTEM_IDENTITY
    elif registration.identity is not None:
        yield _USER_IDENTITY.format(identity=shlex.quote(registration.identity))
    if registration.client_id is not None:
        yield f"\nCLIENT_ID={shlex.quote(registration.client_id or '')}\n"
    names = {"name": registration.name, "role": registration.role}
    if not knows_api:
        yield _NAME_API
        yield _API.format(role_id=registration.role_id, **names)
    elif not knows_client:
        yield _KNOWN_API.format(identifier=shlex.quote((registration.scope or "").removesuffix("/.default")), **names)
    if not knows_client and not is_identity_alone:
        yield _CLIENT.format(**names)
    if registration.is_federated:
        audience = FEDERATION_AUDIENCES[registration.cloud]
        yield _FEDERATED.format(authority=cloud.authority, audience=audience)
    elif registration.identity is None and (registration.is_new_certificate or not knows_client):
        yield _CERTIFICATE.format(certificate=registration.certificate_file)
    if not (knows_client and knows_api):
        yield _IDENTITYS_ROLE if is_identity_alone else _ROLE
        yield _GRANT.format(graph=cloud.graph)
    if not knows_api:
        policy = format_policy(cloud.authority, "$TENANT_ID", "$API_ID", registration.role)
        yield _POLICY.format(policy=policy, empty=_EMPTY_POLICY)
    if not (knows_api and (knows_client or is_identity_alone)):
        yield _WRITE_IDS.format(config=config)
    yield _END.format(config=config)


def _find_wanted_tenant(tenant: str, authority: str) -> str:
    """Return the lines of a shell that set WANTED to the GUID of a tenant."""
    if _GUID.fullmatch(tenant):
        return f"WANTED={tenant.lower()}"
    # Everybody may read a domain's issuer, which has the GUID in it (OpenID Connect Discovery §3).
    return f"""\
ISSUER=$(az rest --skip-authorization-header --method get --query issuer --output tsv \\
    --url {authority}/{tenant}/v2.0/.well-known/openid-configuration)
WANTED=$(echo "$ISSUER" | cut -d / -f 4)
need "tenant {tenant}" "$WANTED\""""
