"""The commands and templates that register an application and its certificate. Pure: does no I/O.

They follow the parameters of Azure CLI 2.91, Microsoft Graph v1.0 and Azure Resource Manager 2024-05-01.
"""

from __future__ import annotations

import base64
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Form(StrEnum):
    """What is to be written."""

    AZ = "az"
    BICEP = "bicep"
    TERRAFORM = "terraform"


@dataclass(frozen=True, slots=True)
class Registration:
    """What is to be registered.

    Attributes:
        name: the applications' display names begin so; letters, digits, blanks, dots, hyphens and underscores.
        role: the value of the app role, such as ``Orders.Read``.
        role_id: its GUID.
        certificate_file: the certificate's path as commands are to name it.
        certificate_pem: the certificate alone.
        config: the configuration's path as commands are to name it.
        tenant: GUID or domain, as in the configuration.
    """

    name: str
    role: str
    role_id: str
    certificate_file: str
    certificate_pem: str
    config: str
    tenant: str


POLICY = """\
<policies>
  <inbound>
    <base />
    <validate-jwt header-name="Authorization" require-scheme="Bearer" failed-validation-httpcode="401"
                  failed-validation-error-message="Unauthorized. Access token is missing or invalid.">
      <openid-config url="https://login.microsoftonline.com/%(tenant)s/v2.0/.well-known/openid-configuration" />
      <audiences><audience>%(api)s</audience></audiences>
      <issuers><issuer>https://login.microsoftonline.com/%(tenant)s/v2.0</issuer></issuers>
      <required-claims><claim name="roles" match="any"><value>%(role)s</value></claim></required-claims>
    </validate-jwt>
  </inbound>
  <backend><base /></backend>
  <outbound><base /></outbound>
  <on-error><base /></on-error>
</policies>
"""


def format_registration(registration: Registration, form: Form) -> str:
    """Return what registers both applications, uploads the certificate, grants the role and sets the policy."""
    match form:
        case Form.AZ:
            return _format_az(registration)
        case Form.BICEP:
            return _format_bicep(registration)
        case Form.TERRAFORM:
            return _format_terraform(registration)


def default_scope(form: Form) -> str:
    """Return the scope of the API that is registered so, with the variable ``API_ID`` for its application id."""
    return "${API_ID}/.default" if form is Form.BICEP else "api://${API_ID}/.default"


def _format_az(registration: Registration) -> str:
    policy = POLICY % {"tenant": "$TENANT_ID", "api": "$API_ID", "role": registration.role}
    config = shlex.quote(registration.config)
    return f"""\
# Run `az login` first, and name the API Management service and the API in it:
GROUP=my-resource-group  SERVICE=contoso  API=orders
TENANT_ID=$(az account show --query tenantId --output tsv)

# The configuration is for this tenant; logged in to another one, az would register everything there.
{_find_wanted_tenant(registration.tenant)}
[ "$TENANT_ID" = "$WANTED" ] || {{ echo "az is logged in to the tenant $TENANT_ID: az login --tenant $WANTED" >&2; exit 1; }}

# The API application: what tokens are for. It decides the tokens' version, and has the role. An application of that
# display name would be changed, not made again.
cat > roles.json <<'END'
[{{"id": "{registration.role_id}", "value": "{registration.role}", "displayName": "{registration.role}",
  "description": "{registration.role}, as an application", "allowedMemberTypes": ["Application"], "isEnabled": true}}]
END
API_ID=$(az ad app create --display-name "{registration.name} API" --sign-in-audience AzureADMyOrg \\
    --requested-access-token-version 2 --app-roles @roles.json --query appId --output tsv)
az ad app update --id "$API_ID" --identifier-uris "api://$API_ID"
az ad sp create --id "$API_ID"            # forgotten: AADSTS500011
# Only applications that have the role get a token at all:
az ad sp update --id "$API_ID" --set appRoleAssignmentRequired=true

# The client application: who asks, which is the proxy.
CLIENT_ID=$(az ad app create --display-name "{registration.name} proxy" --sign-in-audience AzureADMyOrg --query appId --output tsv)
az ad sp create --id "$CLIENT_ID"         # forgotten: AADSTS7000229

# The certificate, its public part alone. Without --append, other certificates and all secrets would be deleted.
az ad app credential reset --id "$CLIENT_ID" --cert "@{registration.certificate_file}" --append

# The role is requested (=Role; =Scope would be for users), then granted.
API_SP=$(az ad sp show --id "$API_ID" --query id --output tsv)
CLIENT_SP=$(az ad sp show --id "$CLIENT_ID" --query id --output tsv)
az ad app permission add --id "$CLIENT_ID" --api "$API_ID" --api-permissions "{registration.role_id}=Role"
az rest --method post --url "https://graph.microsoft.com/v1.0/servicePrincipals/$API_SP/appRoleAssignedTo" \\
    --headers Content-Type=application/json \\
    --body "{{\\"principalId\\": \\"$CLIENT_SP\\", \\"resourceId\\": \\"$API_SP\\", \\"appRoleId\\": \\"{registration.role_id}\\"}}"

# The policy. This replaces the API's policy: merge what is there. rawxml, because xml wants expressions escaped.
cat > policy.xml <<END
{policy}END
python3 -c 'import json
print(json.dumps({{"properties": {{"format": "rawxml", "value": open("policy.xml").read()}}}}))' > policy.json
az rest --method put --body @policy.json --headers Content-Type=application/json --url \\
"/subscriptions/{{subscriptionId}}/resourceGroups/$GROUP/providers/Microsoft.ApiManagement/service/$SERVICE/apis/$API/policies/policy?api-version=2024-05-01"

# Both ids go into the configuration, in place of the variables that stand there.
sed -i.before -e "s/[$]{{CLIENT_ID}}/$CLIENT_ID/" -e "s/[$]{{API_ID}}/$API_ID/" {config}
rm -f {config}.before
apim-auth-proxy check --config {config} --online
"""


def _find_wanted_tenant(tenant: str) -> str:
    """Return the line of a shell that sets WANTED to the GUID of a tenant."""
    if _GUID.fullmatch(tenant):
        return f"WANTED={tenant.lower()}"
    # Everybody may read a domain's issuer, which has the GUID in it (OpenID Connect Discovery §3).
    return f"""\
WANTED=$(az rest --skip-authorization-header --method get --query issuer --output tsv \\
    --url https://login.microsoftonline.com/{tenant}/v2.0/.well-known/openid-configuration | cut -d / -f 4)"""


def _format_bicep(registration: Registration) -> str:
    policy = POLICY % {"tenant": "${tenant().tenantId}", "api": "${api.appId}", "role": registration.role}
    # A multi-line string of Bicep has no interpolation, so the lines are joined.
    lines = "\n".join("  '" + line.replace("'", "\\'") + "'" for line in policy.splitlines())
    return f"""\
// az deployment group create --resource-group GROUP --template-file register.bicep
// It needs the Microsoft Graph extension for Bicep, under this name in bicepconfig.json.
extension microsoftGraphV1_0

param service string              // the API Management service
param apiName string              // the API in it

// The API application: what tokens are for. It decides the tokens' version, and has the role.
resource api 'Microsoft.Graph/applications@v1.0' = {{
  uniqueName: '{_slug(registration.name)}-api'
  displayName: '{registration.name} API'
  signInAudience: 'AzureADMyOrg'
  api: {{ requestedAccessTokenVersion: 2 }}
  appRoles: [
    {{
      id: '{registration.role_id}'
      value: '{registration.role}'
      displayName: '{registration.role}'
      description: '{registration.role}, as an application'
      allowedMemberTypes: [ 'Application' ]
      isEnabled: true
    }}
  ]
}}

// Without a service principal the token endpoint does not know the resource (AADSTS500011).
resource apiPrincipal 'Microsoft.Graph/servicePrincipals@v1.0' = {{
  appId: api.appId
  appRoleAssignmentRequired: true
}}

// The client application: who asks, which is the proxy. Its certificate's public part.
resource client 'Microsoft.Graph/applications@v1.0' = {{
  uniqueName: '{_slug(registration.name)}-proxy'
  displayName: '{registration.name} proxy'
  signInAudience: 'AzureADMyOrg'
  keyCredentials: [
    {{
      type: 'AsymmetricX509Cert'
      usage: 'Verify'
      displayName: 'apim-auth-proxy'
      key: '{_base64_der(registration.certificate_pem)}'
    }}
  ]
}}

resource clientPrincipal 'Microsoft.Graph/servicePrincipals@v1.0' = {{
  appId: client.appId
}}

// The grant of the role.
resource grant 'Microsoft.Graph/appRoleAssignedTo@v1.0' = {{
  appRoleId: '{registration.role_id}'
  principalId: clientPrincipal.id
  resourceId: apiPrincipal.id
}}

// The policy replaces the API's; merge what is there.
resource policy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = {{
  name: '${{service}}/${{apiName}}/policy'
  properties: {{
    format: 'rawxml'
    value: join([
{lines}
    ], '\\n')
  }}
}}

// The configuration takes both from the environment. Its scope names the API by its id: a template cannot give an application an
// identifier URI that holds the application's own id.
output CLIENT_ID string = client.appId
output API_ID string = api.appId
"""


def _format_terraform(registration: Registration) -> str:
    policy = POLICY % {
        "tenant": "${data.azuread_client_config.current.tenant_id}",
        "api": "${azuread_application.api.client_id}",
        "role": registration.role,
    }
    return f"""\
terraform {{
  required_providers {{
    azuread = {{ source = "hashicorp/azuread" }}
    azurerm = {{ source = "hashicorp/azurerm" }}
  }}
}}

variable "resource_group" {{}}
variable "service" {{}}  # the API Management service
variable "api_name" {{}} # the API in it

data "azuread_client_config" "current" {{}}

# The API application: what tokens are for. It decides the tokens' version, and has the role.
resource "azuread_application" "api" {{
  display_name     = "{registration.name} API"
  sign_in_audience = "AzureADMyOrg"
  api {{
    requested_access_token_version = 2
  }}
  app_role {{
    id                   = "{registration.role_id}"
    value                = "{registration.role}"
    display_name         = "{registration.role}"
    description          = "{registration.role}, as an application"
    allowed_member_types = ["Application"]
    enabled              = true
  }}
  lifecycle {{
    ignore_changes = [identifier_uris] # set below, since it holds the application's own id
  }}
}}

resource "azuread_application_identifier_uri" "api" {{
  application_id = azuread_application.api.id
  identifier_uri = "api://${{azuread_application.api.client_id}}"
}}

# Without a service principal the token endpoint does not know the resource (AADSTS500011).
resource "azuread_service_principal" "api" {{
  client_id                    = azuread_application.api.client_id
  app_role_assignment_required = true
}}

# The client application: who asks, which is the proxy.
resource "azuread_application" "client" {{
  display_name     = "{registration.name} proxy"
  sign_in_audience = "AzureADMyOrg"
}}

resource "azuread_service_principal" "client" {{
  client_id = azuread_application.client.client_id
}}

# The certificate, its public part alone.
resource "azuread_application_certificate" "client" {{
  application_id = azuread_application.client.id
  type           = "AsymmetricX509Cert"
  value          = file("{registration.certificate_file}")
}}

# The grant of the role.
resource "azuread_app_role_assignment" "client" {{
  app_role_id         = "{registration.role_id}"
  principal_object_id = azuread_service_principal.client.object_id
  resource_object_id  = azuread_service_principal.api.object_id
}}

# The policy replaces the API's; merge what is there.
resource "azurerm_api_management_api_policy" "api" {{
  resource_group_name = var.resource_group
  api_management_name = var.service
  api_name            = var.api_name
  xml_content         = <<XML
{policy}XML
}}

output "CLIENT_ID" {{ value = azuread_application.client.client_id }}
output "API_ID" {{ value = azuread_application.api.client_id }}
"""


def _slug(name: str) -> str:
    return "-".join(name.lower().split())


def _base64_der(pem: str) -> str:
    body = "".join(line for line in pem.splitlines() if line and not line.startswith("-----"))
    return base64.b64encode(base64.b64decode(body)).decode("ascii")
