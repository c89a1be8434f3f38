"""The commands and templates that register an application and its certificate. Pure: does no I/O.

They follow the parameters of Azure CLI 2.91, Microsoft Graph v1.0 and Azure Resource Manager 2024-05-01.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum

from proxy.client_setup.az_script import format_az
from proxy.client_setup.clouds import ENDPOINTS, FEDERATION_AUDIENCES
from proxy.client_setup.policy import format_policy
from proxy.config.settings import Cloud


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
        cloud: whose endpoints are meant.
        client_id: the client application's id, where it is registered.
        scope: of the API, where it is registered.
        is_new_certificate: whether the certificate was made just now, so that nobody knows it yet.
        identity: the managed identity in its place: ``system``, or a client id.
        is_federated: the client application trusts that identity; otherwise there is no client application.
    """

    name: str
    role: str
    role_id: str
    certificate_file: str
    certificate_pem: str
    config: str
    tenant: str
    cloud: Cloud = Cloud.PUBLIC
    client_id: str | None = None
    scope: str | None = None
    is_new_certificate: bool = True
    identity: str | None = None
    is_federated: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to register."""
        is_known = self.client_id is not None and self.scope is not None
        return is_known and self.identity is None and not self.is_new_certificate


def format_registration(registration: Registration, form: Form) -> str:
    """Return what registers both applications, uploads the certificate, grants the role and sets the policy."""
    match form:
        case Form.AZ:
            return format_az(registration)
        case Form.BICEP:
            return _format_bicep(registration)
        case Form.TERRAFORM:
            return _format_terraform(registration)


def default_scope(form: Form) -> str:
    """Return the scope of the API that is registered so, with the variable ``API_ID`` for its application id."""
    return "${API_ID}/.default" if form is Form.BICEP else "api://${API_ID}/.default"


def _format_bicep(registration: Registration) -> str:
    policy = format_policy(
        ENDPOINTS[registration.cloud].authority, "${tenant().tenantId}", "${api.appId}", registration.role
    )
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

{_bicep_client(registration)}// The policy replaces the API's; merge what is there.
resource policy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = {{
  name: '${{service}}/${{apiName}}/policy'
  properties: {{
    format: 'rawxml'
    value: join([
{lines}
    ], '\\n')
  }}
}}

// The configuration takes them from the environment. Its scope names the API by its id: a template cannot give an application an
// identifier URI that holds the application's own id.
{_bicep_outputs(registration)}"""


def _bicep_client(registration: Registration) -> str:
    """Return who asks and how it proves that, and the grant of the role."""
    is_identity_alone = registration.identity is not None and not registration.is_federated
    principal = "clientPrincipal.id"
    text = ""
    if registration.identity == "system":
        text += """\
// The machine's system-assigned identity: `principalId` of `az vm identity show`.
param identityPrincipalId string

"""
    elif registration.identity is not None:
        text += f"""\
// The user-assigned identity; assign it to the machine as well.
resource identity 'Microsoft.Graph/servicePrincipals@v1.0' existing = {{
  appId: '{registration.identity}'
}}

"""
    subject = "identityPrincipalId" if registration.identity == "system" else "identity.id"
    if is_identity_alone:
        principal = subject
    else:
        text += _bicep_application(registration, subject)
    return (
        text
        + f"""\
// The grant of the role.
resource grant 'Microsoft.Graph/appRoleAssignedTo@v1.0' = {{
  appRoleId: '{registration.role_id}'
  principalId: {principal}
  resourceId: apiPrincipal.id
}}

"""
    )


def _bicep_application(registration: Registration, subject: str) -> str:
    credential, trust = "", ""
    if registration.is_federated:
        trust = f"""\
// The application trusts the managed identity: issuer, subject and audience are compared exactly.
resource trust 'Microsoft.Graph/applications/federatedIdentityCredentials@v1.0' = {{
  name: '${{client.uniqueName}}/apim-auth-proxy'
  issuer: '{ENDPOINTS[registration.cloud].authority}/${{tenant().tenantId}}/v2.0'
  subject: {subject}
  audiences: [ '{FEDERATION_AUDIENCES[registration.cloud]}' ]
}}

"""
    else:
        credential = f"""
  // The certificate's public part.
  keyCredentials: [
    {{
      type: 'AsymmetricX509Cert'
      usage: 'Verify'
      displayName: 'apim-auth-proxy'
      key: '{_base64_der(registration.certificate_pem)}'
    }}
  ]"""
    return f"""\
// The client application: who asks, which is the proxy.
resource client 'Microsoft.Graph/applications@v1.0' = {{
  uniqueName: '{_slug(registration.name)}-proxy'
  displayName: '{registration.name} proxy'
  signInAudience: 'AzureADMyOrg'{credential}
}}

resource clientPrincipal 'Microsoft.Graph/servicePrincipals@v1.0' = {{
  appId: client.appId
}}

{trust}"""


def _bicep_outputs(registration: Registration) -> str:
    is_identity_alone = registration.identity is not None and not registration.is_federated
    client = "" if is_identity_alone else "output CLIENT_ID string = client.appId\n"
    return client + "output API_ID string = api.appId\n"


def _format_terraform(registration: Registration) -> str:
    cloud = ENDPOINTS[registration.cloud]
    policy = format_policy(
        cloud.authority,
        "${data.azuread_client_config.current.tenant_id}",
        "${azuread_application.api.client_id}",
        registration.role,
    )
    return f"""\
terraform {{
  required_providers {{
    azuread = {{
      source  = "hashicorp/azuread"
      version = ">= 3.0"
    }}
    azurerm = {{
      source  = "hashicorp/azurerm"
      version = ">= 4.0"
    }}
  }}
}}

# Both take who you are from `az login`, after `az cloud set --name {cloud.az_name}`.
provider "azuread" {{
  environment = "{cloud.terraform_name}"
}}

provider "azurerm" {{
  environment     = "{cloud.terraform_name}"
  subscription_id = var.subscription_id
  features {{}}
}}

variable "subscription_id" {{}}
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

{_terraform_client(registration)}# The policy replaces the API's; merge what is there.
resource "azurerm_api_management_api_policy" "api" {{
  resource_group_name = var.resource_group
  api_management_name = var.service
  api_name            = var.api_name
  xml_content         = <<XML
{policy}XML
}}

{_terraform_outputs(registration)}"""


def _terraform_client(registration: Registration) -> str:
    """Return who asks and how it proves that, and the grant of the role."""
    is_identity_alone = registration.identity is not None and not registration.is_federated
    text = ""
    if registration.identity == "system":
        text += """\
# The machine's system-assigned identity: `principalId` of `az vm identity show`, or an attribute of the machine's own resource.
variable "identity_principal_id" {}

"""
    elif registration.identity is not None:
        text += f"""\
# The user-assigned identity; assign it to the machine as well.
data "azuread_service_principal" "identity" {{
  client_id = "{registration.identity}"
}}

"""
    subject = (
        "var.identity_principal_id"
        if registration.identity == "system"
        else "data.azuread_service_principal.identity.object_id"
    )
    principal = subject if is_identity_alone else "azuread_service_principal.client.object_id"
    if not is_identity_alone:
        text += _terraform_application(registration, subject)
    return (
        text
        + f"""\
# The grant of the role.
resource "azuread_app_role_assignment" "client" {{
  app_role_id         = "{registration.role_id}"
  principal_object_id = {principal}
  resource_object_id  = azuread_service_principal.api.object_id
}}

"""
    )


def _terraform_application(registration: Registration, subject: str) -> str:
    if registration.is_federated:
        authority = ENDPOINTS[registration.cloud].authority
        proof = f"""\
# The application trusts the managed identity: issuer, subject and audience are compared exactly.
resource "azuread_application_federated_identity_credential" "client" {{
  application_id = azuread_application.client.id
  display_name   = "apim-auth-proxy"
  issuer         = "{authority}/${{data.azuread_client_config.current.tenant_id}}/v2.0"
  subject        = {subject}
  audiences      = ["{FEDERATION_AUDIENCES[registration.cloud]}"]
}}
"""
    else:
        proof = f"""\
# The certificate, its public part alone.
resource "azuread_application_certificate" "client" {{
  application_id = azuread_application.client.id
  type           = "AsymmetricX509Cert"
  value          = file("{registration.certificate_file}")
}}
"""
    return f"""\
# The client application: who asks, which is the proxy.
resource "azuread_application" "client" {{
  display_name     = "{registration.name} proxy"
  sign_in_audience = "AzureADMyOrg"
}}

resource "azuread_service_principal" "client" {{
  client_id = azuread_application.client.client_id
}}

{proof}
"""


def _terraform_outputs(registration: Registration) -> str:
    is_identity_alone = registration.identity is not None and not registration.is_federated
    client = "" if is_identity_alone else 'output "CLIENT_ID" { value = azuread_application.client.client_id }\n'
    return client + 'output "API_ID" { value = azuread_application.api.client_id }\n'


def _slug(name: str) -> str:
    return "-".join(name.lower().split())


def _base64_der(pem: str) -> str:
    body = "".join(line for line in pem.splitlines() if line and not line.startswith("-----"))
    return base64.b64encode(base64.b64decode(body)).decode("ascii")
