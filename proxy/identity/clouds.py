"""The sign-in hosts of Microsoft's clouds. Does no I/O.

Source: Entra ID's page on national clouds. The German cloud was closed in 2021 and is left out.
"""

from __future__ import annotations

AUTHORITIES = {
    "public": "https://login.microsoftonline.com",
    "usgov": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}
