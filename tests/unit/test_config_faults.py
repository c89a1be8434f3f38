"""Every bad configuration is refused with the key path, the line, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults, Fault, format_key_path
from proxy.config.loading import load_settings

if TYPE_CHECKING:
    from pathlib import Path

_GOOD = """\
listeners:
  - address: 127.0.0.1:8080
  - address: 127.0.0.1:8081
    mode: reverse
    upstream: https://api.contoso.com
credentials:
  orders:
    tenant_id: 11111111-1111-1111-1111-111111111111
    client_id: 22222222-2222-2222-2222-222222222222
    certificate: clientapp.pem
  other:
    token_endpoint: https://login.example.com/token
    client_id: my-client
    certificate: clientapp.pem
routes:
  - hosts: [api.contoso.com, "*.apis.contoso.com"]
    credential: orders
    scope: api://orders/.default
  - hosts: [api.example.com]
    credential: other
    scope: orders.read
"""
_ENVIRON = {"HOME": "/home/u", "EMPTY": "", "WITH_LINE_BREAK": "abc\n", "WORDS": "no number", "KEY": "hunter2"}

_FIRST = "127.0.0.1:8080"
_UPSTREAM = "https://api.contoso.com"
_TENANT = "tenant_id: 11111111-1111-1111-1111-111111111111"
_ENDPOINT = "https://login.example.com/token"
_SCOPE = "scope: api://orders/.default"
_HOSTS = '[api.contoso.com, "*.apis.contoso.com"]'
_LAST = "    scope: orders.read\n"


def _faults(directory: Path, text: str | bytes, environ: dict[str, str] | None = None) -> list[Fault]:
    file = directory / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(file, _ENVIRON if environ is None else environ, check_files=False)
    return caught.value.faults


def test_the_configuration_that_the_cases_spoil_is_good(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(_GOOD)
    settings = load_settings(file, _ENVIRON, check_files=False)
    assert settings.listeners[1].upstream == "https://api.contoso.com"


def _case(name: str, old: str, new: str, path: str, line: int, word: str) -> object:
    return pytest.param(old, new, path, line, word, id=name)


def _at_the_end(name: str, added: str, path: str, line: int, word: str) -> object:
    return _case(name, _LAST, _LAST + added, path, line, word)


def _header(name: str, entry: str, path: str, word: str) -> object:
    return _at_the_end(
        name, f"    set_headers:\n      {entry}\n", f"routes[1].set_headers{path}", 23 if path else 22, word
    )


@pytest.mark.parametrize(
    ("old", "new", "path", "line", "word"),
    [
        # Keys
        _at_the_end("unknown key", "other_host: refuse\n", "other_host", 22, "did you mean 'other_hosts'"),
        _at_the_end("unknown key like no other", "xyzzy: 1\n", "xyzzy", 22, "access_log, admin"),
        _case("unknown key in a list", "scope: orders", "scpe: x\n    scope: orders", "routes[1].scpe", 21, "'scope'"),
        _case(
            "unknown key in a credential",
            "client_id: my",
            "clientid: x\n    client_id: my",
            "credentials.other.clientid",
            13,
            "'client_id'",
        ),
        _at_the_end("unknown limit", "limits:\n  head_byte: 1\n", "limits.head_byte", 23, "'head_bytes'"),
        _at_the_end("unknown timeout", "timeouts: {conect_s: 1}\n", "timeouts.conect_s", 22, "'connect_s'"),
        _at_the_end("unknown admin key", "admin: {port: 1}\n", "admin.port", 22, "address"),
        _case(
            "client secret",
            "client_id: my",
            "client_secret: x\n    client_id: my",
            "credentials.other.client_secret",
            13,
            "certificate",
        ),
        _case(
            "password in the file",
            "client_id: my",
            "password: x\n    client_id: my",
            "credentials.other.password",
            13,
            "password_file",
        ),
        _case("key twice", "    scope: orders.read", "    scope: a\n    scope: b", "routes[1].scope", 22, "line 21"),
        _case("section twice", "routes:", "credentials: {}\nroutes:", "credentials", 15, "line 6"),
        _at_the_end("key that is a number", "8080: x\n", "", 22, "in quotes"),
        _at_the_end("key that is a truth value", "limits: {on: 1}\n", "limits", 22, "in quotes"),
        _at_the_end("key that is a list", "limits: {[a]: 1}\n", "limits", 22, "stray"),
        # Required
        _case("no scope", _LAST, "", "routes[1].scope", 19, "api://orders/.default"),
        _case("no address", f"address: {_FIRST}", "mode: forward", "listeners[0].address", 2, "127.0.0.1:8080"),
        _case("no client id", "    client_id: my-client\n", "", "credentials.other.client_id", 11, "application"),
        _case(
            "no hosts",
            "hosts: [api.example.com]\n    credential",
            "credential",
            "routes[1].hosts",
            19,
            "contoso.azure-api.net",
        ),
        _case("hosts empty", "[api.example.com]", "[]", "routes[1].hosts", 19, "at least one"),
        _case("scope empty", "scope: orders.read", 'scope: ""', "routes[1].scope", 21, "empty"),
        _case(
            "routes null",
            "credential: other\n    scope: orders.read",
            "credential: other\n    scope:",
            "routes[1].scope",
            21,
            "what is the token for",
        ),
        # Types
        _case(
            "number for text",
            "client_id: my-client",
            "client_id: 12345",
            "credentials.other.client_id",
            13,
            "in quotes",
        ),
        _case("yes for text", "client_id: my-client", "client_id: yes", "credentials.other.client_id", 13, "in quotes"),
        _case(
            "number for a path",
            "certificate: clientapp.pem\nroutes",
            "certificate: 7\nroutes",
            "credentials.other.certificate",
            14,
            "in quotes",
        ),
        _case("list for text", "scope: orders.read", "scope: [orders.read]", "routes[1].scope", 21, "a list"),
        _case("text for a list", "hosts: [api.example.com]", "hosts: api.example.com", "routes[1].hosts", 19, "'- '"),
        _case("text for a mapping", _LAST, _LAST + "limits: many\n", "limits", 22, "mapping"),
        _at_the_end("nothing for a section", "limits:\n", "limits", 22, "remove the key"),
        _at_the_end("text for a number", "timeouts: {connect_s: '10'}\n", "timeouts.connect_s", 22, "without quotes"),
        _at_the_end("unit on a number", "timeouts: {connect_s: 10s}\n", "timeouts.connect_s", 22, "units"),
        _at_the_end("fraction for a count", "limits: {connections: 1.5}\n", "limits.connections", 22, "whole number"),
        _at_the_end(
            "truth value for a count", "limits: {connections: yes}\n", "limits.connections", 22, "true or false"
        ),
        _at_the_end("zero seconds", "timeouts: {connect_s: 0}\n", "timeouts.connect_s", 22, "greater than 0"),
        _at_the_end("too many seconds", "timeouts: {drain_s: 86401}\n", "timeouts.drain_s", 22, "86400"),
        _at_the_end("infinite seconds", "timeouts: {drain_s: .inf}\n", "timeouts.drain_s", 22, "expected a number"),
        _at_the_end("undefined seconds", "timeouts: {drain_s: .nan}\n", "timeouts.drain_s", 22, "expected a number"),
        _at_the_end("negative bytes", "limits: {head_bytes: -1}\n", "limits.head_bytes", 22, "greater than 0"),
        _at_the_end("huge number", f"limits: {{connections: {'9' * 5_000}}}\n", "limits.connections", 22, "YAML"),
        _at_the_end(
            "text for a truth value", "access_log: {enabled: 'true'}\n", "access_log.enabled", 22, "true or false"
        ),
        _at_the_end("log format", "access_log: {format: xml}\n", "access_log.format", 22, "'json'"),
        _case("mode", "mode: reverse", "mode: backward", "listeners[1].mode", 4, "'reverse'"),
        _at_the_end("other hosts", "other_hosts: no\n", "other_hosts", 22, "'refuse' or 'tunnel'"),
        _at_the_end("one of few, misspelt", "other_hosts: tunel\n", "other_hosts", 22, "; did you mean 'tunnel'?"),
        _case(
            "algorithm",
            "client_id: my",
            "assertion_algorithm: HS256\n    client_id: my",
            "credentials.other.assertion_algorithm",
            13,
            "'PS256'",
        ),
        _at_the_end("a tag", "admin: !!python/object:os.system {}\n", "admin", 22, "tag"),
        _at_the_end("merge of a number", "limits: {<<: 1}\n", "limits", 22, "alias"),
        # Listeners
        _case("no port", _FIRST, "127.0.0.1", "listeners[0].address", 2, "host:port"),
        _case("port alone", _FIRST, "':8080'", "listeners[0].address", 2, "for all"),
        _case("port only a number", _FIRST, "8080", "listeners[0].address", 2, "in quotes"),
        _case("star", _FIRST, "'*:8080'", "listeners[0].address", 2, "[::]"),
        _case("port too large", _FIRST, "127.0.0.1:65536", "listeners[0].address", 2, "65535"),
        _case("name to listen on", _FIRST, "proxy.internal:8080", "listeners[0].address", 2, "localhost"),
        _case("IPv6 without brackets", _FIRST, "'::1:8080'", "listeners[0].address", 2, "brackets"),
        _case("octal address", _FIRST, "0177.0.0.1:8080", "listeners[0].address", 2, "four decimal"),
        _case("all addresses", _FIRST, "0.0.0.0:8080", "listeners[0].address", 2, "allow_any_client: true"),
        _case("all IPv6 addresses", _FIRST, "'[::]:8080'", "listeners[0].address", 2, "allow_any_client"),
        _case("an address of the network", _FIRST, "10.0.0.5:8080", "listeners[0].address", 2, "identity"),
        _at_the_end("admin for others", "admin: {address: '0.0.0.0:9901'}\n", "admin.address", 22, "allow_any_client"),
        _case("address twice", "127.0.0.1:8081", _FIRST, "listeners[1].address", 3, "another port"),
        _case(
            "localhost is an address too", "127.0.0.1:8081", "localhost:8080", "listeners[1].address", 3, "another port"
        ),
        _at_the_end(
            "admin on a listener's port", f"admin: {{address: '{_FIRST}'}}\n", "admin.address", 22, "another port"
        ),
        _case(
            "reverse without upstream", f"    upstream: {_UPSTREAM}\n", "", "listeners[1].upstream", 3, "add upstream"
        ),
        _case("forward with upstream", "    mode: reverse\n", "", "listeners[1].upstream", 4, "mode: reverse"),
        _case(
            "server names on forward",
            "8080\n",
            "8080\n    server_names: [a.example]\n",
            "listeners[0].server_names",
            3,
            "reverse",
        ),
        _case(
            "cross-site on forward",
            "8080\n",
            "8080\n    allow_cross_site: true\n",
            "listeners[0].allow_cross_site",
            3,
            "reverse",
        ),
        _case(
            "transparent with upstream",
            "mode: reverse",
            "mode: transparent",
            "listeners[1].upstream",
            5,
            "takes the upstream from each connection",
        ),
        _case(
            "transparent with TLS",
            "8080\n",
            "8080\n    mode: transparent\n    tls: {certificate: a.pem}\n",
            "listeners[0].tls",
            4,
            "interception CA",
        ),
        _case(
            "transparent on a Unix socket",
            "8080\n",
            "8080\n  - address: unix:/run/a.sock\n    mode: transparent\n",
            "listeners[1].address",
            3,
            "over TCP",
        ),
        _case(
            "server name",
            _UPSTREAM,
            f"{_UPSTREAM}\n    server_names: ['a b']",
            "listeners[1].server_names[0]",
            6,
            "DNS name",
        ),
        _case("upstream over http", _UPSTREAM, "http://api.contoso.com", "listeners[1].upstream", 5, "https://"),
        _case("upstream without scheme", _UPSTREAM, "api.contoso.com", "listeners[1].upstream", 5, "https://"),
        _case("upstream with path", _UPSTREAM, f"{_UPSTREAM}/orders", "listeners[1].upstream", 5, "path"),
        _case("upstream with query", _UPSTREAM, f"{_UPSTREAM}?a=b", "listeners[1].upstream", 5, "query"),
        _case(
            "upstream with userinfo",
            _UPSTREAM,
            "https://u:p@api.contoso.com",
            "listeners[1].upstream",
            5,
            "user information",
        ),
        _case("upstream not routed", _UPSTREAM, "https://www.contoso.com", "listeners[1].upstream", 5, "no route"),
        _case("upstream on another port", _UPSTREAM, f"{_UPSTREAM}:8443", "listeners[1].upstream", 5, "8443"),
        # Credentials
        _case(
            "two ways to a token",
            _TENANT,
            f"{_TENANT}\n    token_endpoint: {_ENDPOINT}",
            "credentials.orders.token_endpoint",
            9,
            "one of the two",
        ),
        _case("no way to a token", f"    {_TENANT}\n", "", "credentials.orders", 7, "tenant_id"),
        _case("common tenant", _TENANT, "tenant_id: common", "credentials.orders.tenant_id", 8, "AADSTS700023"),
        _case("tenant with a slash", _TENANT, "tenant_id: contoso.com/x", "credentials.orders.tenant_id", 8, "GUID"),
        _case(
            "tenant cut short",
            _TENANT,
            "tenant_id: 11111111-1111",
            "credentials.orders.tenant_id",
            8,
            "az account show",
        ),
        _case(
            "token endpoint over http",
            _ENDPOINT,
            "http://login.example.com/token",
            "credentials.other.token_endpoint",
            12,
            "https://",
        ),
        _case(
            "token endpoint with fragment",
            _ENDPOINT,
            f"'{_ENDPOINT}#x'",
            "credentials.other.token_endpoint",
            12,
            "fragment",
        ),
        _case(
            "token endpoint with a space",
            _ENDPOINT,
            f"'{_ENDPOINT} x'",
            "credentials.other.token_endpoint",
            12,
            "spaces",
        ),
        _case(
            "token endpoint without host", _ENDPOINT, "https:///token", "credentials.other.token_endpoint", 12, "host"
        ),
        _case(
            "authority over http",
            _TENANT,
            f"{_TENANT}\n    authority: http://localhost",
            "credentials.orders.authority",
            9,
            "https://",
        ),
        _case(
            "authority with a tenant",
            _TENANT,
            f"{_TENANT}\n    authority: https://login.example/t",
            "credentials.orders.authority",
            9,
            "path",
        ),
        _case(
            "authority without tenant",
            f"token_endpoint: {_ENDPOINT}",
            f"token_endpoint: {_ENDPOINT}\n    authority: https://a.example",
            "credentials.other.authority",
            13,
            "tenant_id",
        ),
        _case(
            "audience empty",
            f"token_endpoint: {_ENDPOINT}",
            f"token_endpoint: {_ENDPOINT}\n    assertion_audience: ''",
            "credentials.other.assertion_audience",
            13,
            "empty",
        ),
        _case(
            "client id with a control",
            "client_id: my-client",
            'client_id: "a\\tb"',
            "credentials.other.client_id",
            13,
            "printable",
        ),
        _case(
            "certificate empty",
            "certificate: clientapp.pem\nroutes",
            "certificate: ''\nroutes",
            "credentials.other.certificate",
            14,
            "empty",
        ),
        _case(
            "certificate with NUL",
            "certificate: clientapp.pem\nroutes",
            'certificate: "a\\0"\nroutes',
            "credentials.other.certificate",
            14,
            "NUL",
        ),
        # Routes
        _case(
            "unknown credential",
            "credential: orders",
            "credential: order",
            "routes[0].credential",
            17,
            "did you mean 'orders'",
        ),
        _case(
            "unknown credential like no other",
            "credential: orders",
            "credential: zzz",
            "routes[0].credential",
            17,
            "orders, other",
        ),
        _case("scope of a permission", _SCOPE, "scope: api://orders/Read", "routes[0].scope", 18, "AADSTS1002012"),
        _case("scope with two", _SCOPE, f"{_SCOPE} b/.default", "routes[0].scope", 18, "one scope"),
        _case("scope with a quote", "scope: orders.read", "scope: 'a\"b'", "routes[1].scope", 21, "RFC 6749"),
        _case("scope with two spaces", "scope: orders.read", "scope: a  b", "routes[1].scope", 21, "one space"),
        _case("host is a URL", "[api.example.com]", "['https://api.example.com']", "routes[1].hosts[0]", 19, "scheme"),
        _case("star in the middle", "[api.example.com]", "[api.*.com]", "routes[1].hosts[0]", 19, "'*'"),
        _case("host with a bad port", "[api.example.com]", "[api.example.com:0]", "routes[1].hosts[0]", 19, "65535"),
        _case(
            "host in two routes", "[api.example.com]", "[API.contoso.com:443]", "routes[1].hosts[0]", 19, "routes[0]"
        ),
        _case(
            "wildcard in two routes",
            "[api.example.com]",
            "[b.example, '*.apis.contoso.com.']",
            "routes[1].hosts[1]",
            19,
            "routes[0]",
        ),
        _case(
            "host twice in a route",
            "[api.example.com]",
            "[b.example, b.example]",
            "routes[1].hosts[1]",
            19,
            "routes[1]",
        ),
        _at_the_end("dial without port", "    dial: 10.1.2.3\n", "routes[1].dial", 22, "host:port"),
        _at_the_end("dial a URL", "    dial: https://10.1.2.3:443\n", "routes[1].dial", 22, "colons"),
        _header("Authorization", "Authorization: x", ".Authorization", "itself"),
        _header("Host", "HOST: x", ".HOST", "itself"),
        _header("Content-Length", "content-length: '1'", ".content-length", "itself"),
        _header("Connection", "Connection: close", ".Connection", "itself"),
        _header("field name with a space", "X Y: z", "['X Y']", "field name"),
        _header("field name empty", "'': z", "['']", "field name"),
        _header("field value number", "X-Key: 12345", ".X-Key", "in quotes"),
        _header("field value empty", "X-Key: ''", ".X-Key", "empty"),
        _header("field value empty in the environment", "X-Key: ${EMPTY}", ".X-Key", "empty"),
        _header("field value with CR LF", 'X-Key: "a\\r\\nX-Evil: b"', ".X-Key", "line break"),
        _header(
            "field value with a line break from the environment", "X-Key: ${WITH_LINE_BREAK}", ".X-Key", "line break"
        ),
        _header("field value with NUL", 'X-Key: "a\\0"', ".X-Key", "control"),
        _header("field value outside ASCII", "X-Key: ü", ".X-Key", "ASCII"),
        _header("field value with a space", "X-Key: ' a'", ".X-Key", "space"),
        _header("one field in two cases", "{X-Key: a, x-key: b}", "", "case"),
        # Limits
        _at_the_end("target over head", "limits: {target_bytes: 70000}\n", "limits.target_bytes", 22, "65536"),
        _at_the_end("head under target", "limits: {head_bytes: 100}\n", "limits.head_bytes", 22, "16384"),
        # Destinations
        _at_the_end("range with bits", "destinations: {allow: [10.1.2.3/16]}\n", "destinations.allow[0]", 22, "prefix"),
        _at_the_end(
            "range by name", "destinations: {allow: [a.example]}\n", "destinations.allow[0]", 22, "10.1.0.0/16"
        ),
        _at_the_end("port 0", "destinations: {ports: [0]}\n", "destinations.ports[0]", 22, "at least 1"),
        _at_the_end("unknown key there", "destinations: {alow: []}\n", "destinations.alow", 22, "'allow'"),
        # Environment
        _header("variable not set", "X-Key: ${NO_SUCH}", ".X-Key", "NO_SUCH is not set"),
        _header("reference cut off", "X-Key: '${KEY'", ".X-Key", "${NAME}"),
        _at_the_end("variable is no number", "timeouts: {drain_s: '${WORDS}'}\n", "timeouts.drain_s", 22, "number"),
        _at_the_end(
            "variable is no truth value", "allow_any_client: ${WORDS}\n", "allow_any_client", 22, "true or false"
        ),
        _at_the_end("half a surrogate pair", 'other_hosts: "\\ud800"\n', "other_hosts", 22, "surrogate"),
    ],
)
def test_one_fault_is_named_with_its_key_path_and_line(
    tmp_path: Path, old: str, new: str, path: str, line: int, word: str
) -> None:
    assert _GOOD.count(old) >= 1
    faults = _faults(tmp_path, _GOOD.replace(old, new, 1))
    assert [(fault.path, fault.line) for fault in faults] == [(path, line)], faults
    assert word in faults[0].message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        pytest.param("", 1, "empty", id="empty"),
        pytest.param("# nothing\n", 1, "empty", id="only a comment"),
        pytest.param("just text\n", 1, "mapping", id="text"),
        pytest.param("\n- a\n- b\n", 2, "mapping", id="a list"),
        pytest.param("a: 1\nlisteners:\n\t- address: x\n", 3, "tab", id="indented with a tab"),
        pytest.param("a: b: c\n", 1, "': '", id="two colons"),
        pytest.param("a: 1\nb\nc: 1\n", 3, "':'", id="no colon"),
        pytest.param('a: 1\nb: "open\nc: 1\n', 2, "quote", id="quote not closed"),
        pytest.param("a: [1, 2\nb: 3\n", 2, "closed", id="bracket not closed"),
        pytest.param("a:\n  - 1\n b: 2\n", 3, "indent", id="indentation"),
        pytest.param("a: @b\n", 1, "quotes", id="reserved character"),
        pytest.param("a: *b\n", 1, "alias", id="alias without anchor"),
        pytest.param('a: "C:\\proxy"\n', 1, "single quotes", id="backslash in double quotes"),
        pytest.param("a: 1\n---\nb: 2\n", 2, "second document", id="two documents"),
        pytest.param("a: 1\nb: \x07\n", 2, "control character", id="control character"),
        pytest.param(b"a: 1\nb: \xff\n", 2, "UTF-8", id="not UTF-8"),
        pytest.param("a: 1\n".encode("utf-16"), 1, "UTF-8", id="UTF-16"),
        pytest.param("a: " + "[" * 1_000 + "]" * 1_000, 1, "deeply", id="nested without end"),
        pytest.param("a: &a [*a]\n", 1, "itself", id="alias of itself"),
        pytest.param("a: &a\n  <<: *a\n", 1, "itself", id="merge of itself"),
        pytest.param('a: "\\UFFFFFFFF"\n', 1, "Unicode", id="escape beyond Unicode"),
        pytest.param(
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{chr(97 + n)}: &{chr(97 + n)} [{','.join(['*' + chr(96 + n)] * 9)}]\n" for n in range(1, 9)),
            1,
            "multiply",
            id="aliases that multiply",
        ),
    ],
)
def test_what_is_not_a_document_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, line: int, word: str
) -> None:
    faults = _faults(tmp_path, text)
    assert [(fault.path, fault.line) for fault in faults] == [("", line)]
    assert word in faults[0].message


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        _GOOD.replace(_FIRST, "0.0.0.0:8080")
        .replace(_UPSTREAM, f"{_UPSTREAM}/path")
        .replace(_TENANT, "tenant_id: common")
        .replace("credential: orders", "credential: order")
        .replace("scope: orders.read", "scopes: orders.read")
        .replace("my-client", "${NO_SUCH}")
    )
    assert [(fault.line, fault.path) for fault in _faults(tmp_path, text)] == [
        (2, "listeners[0].address"),
        (5, "listeners[1].upstream"),
        (8, "credentials.orders.tenant_id"),
        (13, "credentials.other.client_id"),
        (17, "routes[0].credential"),
        (19, "routes[1].scope"),
        (21, "routes[1].scopes"),
    ]


def test_the_message_reads_like_a_compilers(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(_GOOD.replace("credential: orders", "credential: order") + "limit: {}\n")
    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(file, _ENVIRON, check_files=False)
    assert str(caught.value).splitlines() == [
        f"{file}:17: routes[0].credential: no credential has this name; did you mean 'orders'?",
        f"{file}:22: limit: there is no such key; did you mean 'limits'?",
    ]


@pytest.mark.parametrize("key", ["certificate", "tenant_id", "authority", "client_id"])
def test_a_value_from_the_environment_is_not_repeated(tmp_path: Path, key: str) -> None:
    text = _GOOD.replace(f"{_TENANT}\n", f"{_TENANT}\n    {key}: ${{KEY}}/\n") + "hunter: 1\n"
    assert "hunter2" not in str([fault.message for fault in _faults(tmp_path, text)])


def test_without_a_home_the_state_directory_has_to_be_written(tmp_path: Path) -> None:
    faults = _faults(tmp_path, _GOOD, environ={})
    assert [(fault.path, fault.line) for fault in faults] == [("state_directory", 1)]
    assert "HOME" in faults[0].message


def test_without_a_home_a_tilde_stands_for_nothing(tmp_path: Path) -> None:
    faults = _faults(tmp_path, _GOOD + "state_directory: ~/state\n", environ={})
    assert [(fault.path, fault.line) for fault in faults] == [("state_directory", 22)]
    assert "HOME" in faults[0].message


@pytest.mark.parametrize(
    ("name", "word"), [("missing.yaml", "no such file"), (".", "directory"), ("a\0b", "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_named_without_a_line(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(tmp_path / name, _ENVIRON)
    assert [fault.line for fault in caught.value.faults] == [0]
    assert word in str(caught.value)


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    assert "larger" in _faults(tmp_path, b"#" * 2_000_000)[0].message


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("routes", 0, "hosts", 1), "routes[0].hosts[1]"),
        (("credentials", "orders-client", "tenant_id"), "credentials.orders-client.tenant_id"),
        (("credentials", "a.b", "x"), "credentials['a.b'].x"),
        (("a\nb\u202e",), "['a\\nb\\u202e']"),
    ],
)
def test_a_key_path_is_one_line_of_ascii(path: tuple[str | int, ...], text: str) -> None:
    assert format_key_path(path) == text
