"""A configuration without a file: what options and variables become, which counts, and how their faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.one_route import ROUTE_OPTIONS, Form, OneRoute, collect_one_route

if TYPE_CHECKING:
    from proxy.config.settings import Settings

HERE = Path("/srv")
GOOD = {
    "APIM_AUTH_PROXY_ROUTE": "https://api.example.com",
    "APIM_AUTH_PROXY_SCOPE": "api://orders/.default",
    "APIM_AUTH_PROXY_TENANT_ID": "contoso.com",
    "APIM_AUTH_PROXY_CLIENT_ID": "orders-client",
    "APIM_AUTH_PROXY_CERTIFICATE": "clientapp.pem",
}


def source(options: dict[str, list[str]] | None = None, **variables: str) -> OneRoute:
    found = collect_one_route(options or {}, GOOD | variables, HERE)
    assert found is not None
    return found


def load(options: dict[str, list[str]] | None = None, **variables: str) -> Settings:
    return load_settings(source(options, **variables), {"HOME": "/home/u"}, check_files=False)


def faults(options: dict[str, list[str]] | None = None, **variables: str) -> list[str]:
    with pytest.raises(ConfigurationFaults) as caught:
        load(options, **variables)
    return [f"{fault.path}: {fault.message}" for fault in caught.value.faults]


def test_variables_alone_are_a_configuration() -> None:
    settings = load()
    assert settings.listeners[0].address == "127.0.0.1:8080"
    credential = settings.credentials["default"]
    assert (credential.tenant_id, credential.client_id) == ("contoso.com", "orders-client")
    assert credential.certificate == HERE / "clientapp.pem", "relative to the working directory"
    assert (settings.routes[0].hosts, settings.routes[0].scope) == (("api.example.com",), "api://orders/.default")


def test_nothing_is_no_configuration() -> None:
    assert collect_one_route({}, {"APIM_AUTH_PROXY_CONFIG": "a.yaml", "APIM_AUTH_PROXY_DIAL": ""}, HERE) is None


def test_an_option_counts_before_its_variable_and_only_it() -> None:
    settings = load({"client_id": ["another"]})
    assert settings.credentials["default"].client_id == "another"
    assert settings.credentials["default"].tenant_id == "contoso.com"


def test_every_option_is_a_key_that_there_is() -> None:
    texts = {Form.FLAG: "true", Form.FIELDS: "X-Key: a"}
    for option in ROUTE_OPTIONS:
        document = source({option.parameter: [texts.get(option.form, "text")]}).read()
        assert document.faults == []
        with pytest.raises(ConfigurationFaults) as caught:
            load({option.parameter: [texts.get(option.form, "b a d")]}, APIM_AUTH_PROXY_OTHER_HOSTS="wrong")
        assert "there is no such key" not in str(caught.value), option.name


def test_several_hosts_and_fields() -> None:
    fields = "Ocp-Apim-Subscription-Key: a b ${c}\n\nX-Tenant:one\n"
    settings = load(
        APIM_AUTH_PROXY_ROUTE="https://a.example/ *.b.example c.example:8443", APIM_AUTH_PROXY_SET_HEADER=fields
    )
    assert settings.routes[0].hosts == ("a.example", "*.b.example", "c.example:8443")
    values = {name: value.reveal() for name, value in settings.routes[0].set_headers.items()}
    assert values == {"Ocp-Apim-Subscription-Key": "a b ${c}", "X-Tenant": "one"}, "nothing is replaced once more"


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("Yes", True), ("off", False), ("0", False)]
)
def test_a_flag_in_a_variable(text: str, *, expected: bool) -> None:
    assert load(APIM_AUTH_PROXY_ALLOW_ANY_CLIENT=text).allow_any_client is expected


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("TENANT_ID", "common", "comes from one tenant"),
        ("TENANT_ID", "", "where do the tokens come from?"),
        ("CLIENT_ID", "", "--client-id (APIM_AUTH_PROXY_CLIENT_ID): this key is required"),
        ("CERTIFICATE", "", "credential: how does it prove who it is?"),
        ("ROUTE", "", "--route (APIM_AUTH_PROXY_ROUTE): this key is required"),
        ("ROUTE", "https://a.example/orders", "APIM_AUTH_PROXY_ROUTE: write only the host"),
        ("ROUTE", "http://a.example", "APIM_AUTH_PROXY_ROUTE: write only the host"),
        ("SCOPE", "orders", "APIM_AUTH_PROXY_SCOPE: an application asks"),
        ("ALLOW_ANY_CLIENT", "perhaps", "APIM_AUTH_PROXY_ALLOW_ANY_CLIENT: write true or false"),
        ("SET_HEADER", "no colon", "APIM_AUTH_PROXY_SET_HEADER: write NAME: VALUE"),
        ("LISTEN", "0.0.0.0:8080", "APIM_AUTH_PROXY_LISTEN: other machines can reach this address"),
        (
            "TENANTID",
            "x",
            "APIM_AUTH_PROXY_TENANTID: there is no such variable; did you mean 'APIM_AUTH_PROXY_TENANT_ID'?",
        ),
    ],
)
def test_a_fault_names_its_option(variable: str, text: str, says: str) -> None:
    (found,) = faults(None, **{f"APIM_AUTH_PROXY_{variable}": text})
    assert says in found


def test_a_fault_names_the_option_where_it_was_one() -> None:
    (found,) = faults({"scope": ["orders"]})
    assert found.startswith("--scope: ")


def test_a_file_that_is_not_there_is_named_once() -> None:
    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(
            source(APIM_AUTH_PROXY_CA_FILE="no.pem", APIM_AUTH_PROXY_CERTIFICATE="/dev/null"), {"HOME": "/home/u"}
        )
    assert str(caught.value) == "APIM_AUTH_PROXY_CA_FILE: there is no file /srv/no.pem; relative paths start at /srv"


def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_ours() -> None:
    settings = load(
        APIM_AUTH_PROXY_SERVICE_HOST="10.0.0.1",
        APIM_AUTH_PROXY_SERVICE_PORT_HTTP="8080",
        APIM_AUTH_PROXY_PORT="tcp://10.0.0.1:8080",
        APIM_AUTH_PROXY_PORT_8080_TCP_ADDR="10.0.0.1",
        APIM_AUTH_PROXY_BLUE_PORT_8080_TCP="tcp://10.0.0.1:8080",
    )
    assert settings == load()


def test_secrets_are_in_no_text_about_it() -> None:
    secrets = source(APIM_AUTH_PROXY_CLIENT_SECRET="s3cret", APIM_AUTH_PROXY_SET_HEADER="X-Key: s3cret")
    assert "s3cret" not in repr(secrets)
    assert secrets.variables()["APIM_AUTH_PROXY_CLIENT_SECRET"] == "s3cret"
    assert [option.option for option in ROUTE_OPTIONS if option.is_secret] == ["--client-secret"]


def test_as_variables_it_is_the_same_again() -> None:
    options = {
        "route": ["https://a.example", "b.example"],
        "set_header": ["A: 1", "B: 2"],
        "allow_any_client": ["true"],
    }
    first = source(options)
    again = collect_one_route({}, first.variables(), HERE)
    assert again is not None
    assert again.read().root == first.read().root
