"""Which variables programs are given, and how shells read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proxy.client_setup.shells import Shell, format_variables
from proxy.client_setup.variables import Setup, Variable, list_direct_hosts, list_variables

SETUP = Setup("http://[::1]:8080", Path("/s t/bundle.pem"), Path("/s t/truststore.p12"), ("api.contoso.com",))
NASTY = "a'b\"c $HOME `id` \\n \\\\ !x ; & # é"


def test_the_proxy_is_named_in_both_cases() -> None:
    values = {variable.name: variable.value for variable in list_variables(SETUP, {})}
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        assert values[name] == values[name.lower()] == "http://[::1]:8080"
    assert values["NO_PROXY"] == values["no_proxy"] == "localhost,127.0.0.1,::1,169.254.169.254"


def test_java_is_given_host_port_exemptions_and_a_truststore() -> None:
    (java,) = [variable.value for variable in list_variables(SETUP, {}) if variable.name == "JAVA_TOOL_OPTIONS"]
    assert java == (
        "-Dhttp.proxyHost=::1 -Dhttp.proxyPort=8080 -Dhttps.proxyHost=::1 -Dhttps.proxyPort=8080 "
        "-Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]|169.254.169.254 "
        '"-Djavax.net.ssl.trustStore=/s t/truststore.p12" -Djavax.net.ssl.trustStoreType=PKCS12 '
        "-Djavax.net.ssl.trustStorePassword=changeit -Djdk.http.auth.tunneling.disabledSchemes="
    )


def test_the_users_java_options_are_kept_and_ours_are_not_repeated() -> None:
    def options(earlier: str) -> str:
        variables = list_variables(SETUP, {"JAVA_TOOL_OPTIONS": earlier})
        return next(variable.value for variable in variables if variable.name == "JAVA_TOOL_OPTIONS")

    first = options("-Xmx64m")
    assert first.startswith("-Xmx64m -Dhttp.proxyHost=")
    assert options(first).count("-Dhttp.proxyHost") == options(first).count("disabledSchemes") == 1
    assert options(first).startswith("-Xmx64m -D")


@pytest.mark.parametrize(
    ("routed", "earlier", "kept"),
    [
        pytest.param(["api.contoso.com"], "intranet,10.0.0.0/8", ["intranet", "10.0.0.0/8"], id="others stay"),
        pytest.param(["api.contoso.com"], "api.contoso.com", [], id="the host itself"),
        pytest.param(["api.contoso.com"], "API.Contoso.com:443", [], id="in other case, with a port"),
        pytest.param(["api.contoso.com"], ".contoso.com,contoso.com,*.contoso.com", [], id="a domain above it"),
        pytest.param(["api.contoso.com"], "*", [], id="everything"),
        pytest.param(["api.contoso.com"], "xapi.contoso.com", ["xapi.contoso.com"], id="a name that ends alike"),
        pytest.param(["*.contoso.com"], "www.contoso.com", [], id="a name below a routed wildcard"),
        pytest.param(["*.contoso.com"], "contoso.org", ["contoso.org"], id="a name beside a wildcard"),
    ],
)
def test_a_routed_host_is_never_exempted(routed: list[str], earlier: str, kept: list[str]) -> None:
    usual = list_direct_hosts([], {})
    assert list_direct_hosts(routed, {"NO_PROXY": earlier}) == [*usual, *kept]


def test_loopback_names_are_not_exempted_where_they_are_routed() -> None:
    assert list_direct_hosts(["localhost", "::1"], {}) == ["127.0.0.1", "169.254.169.254"]
    assert "localhost" not in list_direct_hosts(["api.localhost"], {})


@pytest.mark.parametrize("program", ["sh", "bash", "fish"])
def test_a_shell_reads_back_exactly_what_was_written(program: str) -> None:
    shell = Shell.FISH if program == "fish" else Shell.SH
    text = format_variables([Variable("XVALUE", NASTY, "")], shell) + 'printf %s "$XVALUE"'
    try:
        done = subprocess.run([program, "-c", text], capture_output=True, check=True, timeout=120)
    except FileNotFoundError:
        pytest.skip(f"{program} is not installed here")
    assert done.stdout.decode() == NASTY


def test_powershell_and_dotenv_quote_what_they_must() -> None:
    variables = [Variable("A_b", "it's", ""), Variable("PLAIN", "/x/y,z", "")]
    assert format_variables(variables, Shell.POWERSHELL) == "${env:A_b} = 'it''s'\n${env:PLAIN} = '/x/y,z'\n"
    assert format_variables(variables, Shell.DOTENV) == "A_b=it's\nPLAIN=/x/y,z\n"
    assert format_variables([Variable("A", 'at 5 % "x"', "")], Shell.CMD) == 'set "A=at 5 %% "x""\n'
