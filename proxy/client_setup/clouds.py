"""Microsoft's clouds as those who register an application meet them. Does no I/O.

Source: Microsoft Graph's and Entra ID's pages on national clouds; names as `az cloud list` and Terraform's providers have them.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.settings import FEDERATION_AUDIENCES, Cloud

__all__ = ["ENDPOINTS", "FEDERATION_AUDIENCES", "Endpoints", "cloud_of"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a cloud is.

    Attributes:
        authority: its sign-in host.
        graph: Microsoft Graph.
        az_name: of `az cloud set`.
        terraform_name: the provider azuread's and azurerm's `environment`.
        gateway_suffix: how the hosts of API Management end.
    """

    authority: str
    graph: str
    az_name: str
    terraform_name: str
    gateway_suffix: str


ENDPOINTS = {
    Cloud.PUBLIC: Endpoints(
        "https://login.microsoftonline.com", "https://graph.microsoft.com", "AzureCloud", "public", ".azure-api.net"
    ),
    Cloud.USGOV: Endpoints(
        "https://login.microsoftonline.us",
        "https://graph.microsoft.us",
        "AzureUSGovernment",
        "usgovernment",
        ".azure-api.us",
    ),
    Cloud.CHINA: Endpoints(
        "https://login.partner.microsoftonline.cn",
        "https://microsoftgraph.chinacloudapi.cn",
        "AzureChinaCloud",
        "china",
        ".azure-api.cn",
    ),
}


def cloud_of(host: str) -> Cloud:
    """Return the cloud that an API's host is in, by its suffix; the public one for a host of somebody's own."""
    name = host.partition(":")[0].lower().rstrip(".")
    return next((cloud for cloud, found in ENDPOINTS.items() if name.endswith(found.gateway_suffix)), Cloud.PUBLIC)
