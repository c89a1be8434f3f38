"""The list: each entry breaks one promise of the product's, as a slip of the hand or a well-meant change might.

An entry is found by its text, which stands once in its file; `tests/unit/test_mutations.py` sees to that.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutation(NamedTuple):
    """One break.

    Attributes:
        promise: what is broken.
        file: below the project's root.
        old: text that stands once in the file.
        new: what takes its place.
        tests: arguments of pytest, as a shell would read them; one of the tests that they name has to fail.
    """

    promise: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS: Final = (
    # Where a request may go.
    Mutation(
        "A Host field never chooses the destination of a request inside a tunnel",
        "proxy/relay/destination_rule.py",
        "    if parse_named(raw, default_port) != authority:\n",
        "    if parse_named(raw, default_port).port != authority.port:\n",
        "tests/wire/test_relay_authority.py::test_host_inside_a_tunnel_has_to_agree_with_connect",
    ),
    Mutation(
        "The SNI inside a tunnel is CONNECT's host",
        "proxy/relay/destination_rule.py",
        "        if not self._name_checked:\n",
        "        if self._name_checked:\n",
        "tests/wire/test_relay_authority.py::test_a_server_name_inside_a_tunnel_has_to_agree_with_connect",
    ),
    Mutation(
        "A reverse listener refuses a name that is neither its own nor local",
        "proxy/relay/destination_rule.py",
        "        if is_routed or not is_local_name(named):\n",
        "        if is_routed and not is_local_name(named):\n",
        "tests/wire/test_relay_authority.py tests/security/test_cross_site.py",
    ),
    Mutation(
        "A web page of another site gets no token by way of the proxy",
        "proxy/relay/destination_rule.py",
        '            is_foreign = b"cross-site" in verdicts\n',
        '            is_foreign = b"cross-origin" in verdicts\n',
        "tests/security/test_cross_site.py::test_what_a_browser_marks_as_cross_site_is_refused",
    ),
    Mutation(
        "A wildcard route does not stand for its own domain",
        "proxy/policy/routing.py",
        '            domain = domain.partition(".")[2]\n'
        "            found = self._wildcards.get(Authority(domain, authority.port))\n",
        "            found = self._wildcards.get(Authority(domain, authority.port))\n"
        '            domain = domain.partition(".")[2]\n',
        "tests/unit/test_policy_routing.py",
    ),
    Mutation(
        "A route gives its token to its own port alone",
        "proxy/policy/routing.py",
        "            found = self._wildcards.get(Authority(domain, authority.port))\n",
        "            found = self._wildcards.get(Authority(domain, HTTPS_PORT))\n",
        "tests/unit/test_policy_routing.py",
    ),
    Mutation(
        "A cloud's metadata address is dialled for nobody",
        "proxy/policy/destinations.py",
        "    if not address.is_global or address.is_multicast or address in _METADATA:\n",
        "    if not address.is_global or address.is_multicast:\n",
        "tests/unit/test_policy_destinations.py",
    ),
    Mutation(
        "An IPv4 address is judged inside the IPv6 forms that carry it",
        "proxy/policy/destinations.py",
        "    if address.ipv4_mapped is not None:\n        return [address.ipv4_mapped]\n",
        "",
        "tests/unit/test_policy_destinations.py",
    ),
    Mutation(
        "Every form of an address has to be allowed, not one of them",
        "proxy/policy/destinations.py",
        "                continue\n",
        "                return\n",
        "tests/unit/test_policy_destinations.py",
    ),
    Mutation(
        "Every address that a name has is judged before one is dialled",
        "proxy/dialing/dialer.py",
        "        if permit is not None:\n            for address in found:\n",
        "        if permit is not None:\n            for address in found[:1]:\n",
        "tests/security/test_boundary.py::test_a_public_name_that_means_an_inner_address_is_refused",
    ),
    Mutation(
        "The proxy does not dial itself",
        "proxy/dialing/dialer.py",
        "        if self._is_self(connected):\n",
        "        if self._is_self(connected) and not found:\n",
        "tests/security/test_boundary.py::test_the_proxy_does_not_call_itself",
    ),
    Mutation(
        "TRACE does not echo the token",
        "proxy/relay/gate.py",
        '    if head.method == b"TRACE" and destination.tokens is not None:\n',
        '    if head.method == b"TRACE" and destination.tokens is None:\n',
        "tests/security/test_boundary.py::test_trace_does_not_show_the_token",
    ),
    # Who may use it.
    Mutation(
        "Whoever no entry of `clients` fits is nobody",
        "proxy/policy/access.py",
        "    if not candidates:\n",
        "    if candidates is None:\n",
        "tests/unit/test_policy_access.py",
    ),
    Mutation(
        "An entry of `clients` that names nothing fits nobody",
        "proxy/policy/access.py",
        "        if not (self.networks or self.users or self.certificate_names or self.password):\n            return False\n",
        "",
        "tests/unit/test_policy_access.py",
    ),
    Mutation(
        "A client known by its user is that user",
        "proxy/policy/access.py",
        "        if self.users and peer.user not in self.users:\n",
        "        if self.users and peer.user is None:\n",
        "tests/unit/test_policy_access.py",
    ),
    Mutation(
        "A client uses its own routes alone",
        "proxy/policy/access.py",
        "        if self.routes is not None and route not in self.routes:\n",
        '        if self.routes is not None and route == "-":\n',
        "tests/unit/test_policy_access.py",
    ),
    Mutation(
        "The routes of a client hold for CONNECT as well",
        "proxy/relay/gate.py",
        "            sender.known.client.check_route(destination.route)\n",
        "",
        "tests/security/test_clients.py::test_a_client_keeps_to_its_routes_on_every_way_in",
    ),
    Mutation(
        "A wrong password is told from a right one",
        "proxy/policy/passwords.py",
        "        return hmac.compare_digest(self._derive(password), self.key)\n",
        "        return len(self._derive(password)) == len(self.key)\n",
        "tests/unit/test_policy_access.py",
    ),
    Mutation(
        "What was right by an earlier configuration is checked by this one",
        "proxy/relay/gate.py",
        "    if verdict.admission is not relay.admission:\n",
        "    if verdict.admission is None:\n",
        "tests/security/test_reload_in_flight.py::test_a_password_that_was_being_checked_counts_by_the_configuration_there_is_then",
    ),
    Mutation(
        "A client that a reload has removed loses its open connections",
        "proxy/relay/admission.py",
        "        known = self._known.get(settled.client.name)\n",
        "        known = self._known.get(settled.client.name, settled)\n",
        "tests/security/test_reload_in_flight.py::test_a_tunnel_that_was_being_dialled_gets_no_further_than_the_configuration_now_says",
    ),
    Mutation(
        "A listener that asks for another CA takes nobody who has come in by the first",
        "proxy/relay/listener_policy.py",
        "not earlier.client_cas <= self.client_cas",
        "not earlier.client_cas",
        "tests/security/test_reload_boundary.py tests/security/test_reload_in_flight.py",
    ),
    # The token.
    Mutation(
        "An expired token is not sent, however long the wait for a connection was",
        "proxy/relay/exchange.py",
        "            self._token = tokens.peek(time.monotonic())\n"
        "            if self._token is not None and time.monotonic() < self._token.usable_until_mono:\n",
        "            if self._token is not None:\n",
        "tests/property/test_exchange.py::test_a_token_that_ends_while_a_connection_is_opened_is_not_sent",
    ),
    Mutation(
        "The client's own Authorization does not pass where a token is added",
        "proxy/relay/destinations.py",
        'b"authorization"',
        'b"x-authorization"',
        "tests/wire/test_relay_corpus.py -k 'authorization or Authorization'",
    ),
    Mutation(
        "A token is no longer used when the flight might outlast it",
        "proxy/identity/access_token.py",
        "        usable_until_mono=expires_at_mono - flight_margin_s(expires_in_s),\n",
        "        usable_until_mono=expires_at_mono + flight_margin_s(expires_in_s),\n",
        "tests/unit/test_identity_lifetime.py",
    ),
    Mutation(
        "A token that a claims challenge came for meanwhile is not kept",
        "proxy/identity/cache.py",
        "        if self.claims != self._flight_claims:\n            return False\n",
        "",
        "tests/unit/test_identity_clockwork.py",
    ),
    Mutation(
        "An upstream's refusals cannot be made into any number of token requests",
        "proxy/identity/cache.py",
        "        if now_mono - self._forced_at_mono < REJECTION_COOLDOWN_S:\n            return False\n",
        "",
        "tests/unit/test_identity_clockwork.py",
    ),
    Mutation(
        "A token that could end its field line is refused",
        "proxy/identity/token_response.py",
        r'_SENDABLE = re.compile(r"[\x21-\x7e]+\Z", re.ASCII)',
        r'_SENDABLE = re.compile(r"[\x20-\x7e\r\n]+\Z", re.ASCII)',
        "tests/unit/test_identity_token_response.py",
    ),
    Mutation(
        "What a platform says is stripped of what the request carried",
        "proxy/identity/token_response.py",
        '            text = text.replace(secret, "[redacted]")\n',
        "            text = text.strip(secret)\n",
        "tests/unit/test_identity_token_response.py",
    ),
    Mutation(
        "A redirect of the token endpoint is not followed with a credential",
        "proxy/identity/token_response.py",
        "    if 300 <= answer.status < 400:\n",
        "    if 310 <= answer.status < 400:\n",
        "tests/unit/test_identity_token_response.py",
    ),
    # What is handed out.
    Mutation(
        "The token endpoint wants its secret",
        "proxy/token_service/questions.py",
        '    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode("utf-8", "surrogateescape"), secret.encode()):\n',
        "    if len(sent) != 1:\n",
        "tests/end_to_end/test_token_endpoint.py::test_each_guard_refuses_in_the_protocols_own_form",
    ),
    Mutation(
        "No web page gets a token from the token endpoint",
        "proxy/token_service/questions.py",
        '"Via", "Origin", "Sec-Fetch-Site")',
        '"Via")',
        "tests/end_to_end/test_token_endpoint.py::test_each_guard_refuses_in_the_protocols_own_form",
    ),
    Mutation(
        "A rebound name gets no token from /authorize",
        "proxy/token_service/questions.py",
        "    if len(hosts) > 1 or not (named.host in own_names or is_local_name(named) or is_routed(named.host)):\n",
        "    if len(hosts) > 1:\n",
        "tests/end_to_end/test_identity_listener.py::test_the_host_comes_from_the_gateway_and_from_nobody_else",
    ),
    Mutation(
        "A gateway asks about one host",
        "proxy/token_service/questions.py",
        '    if len(named) != 1 or "," in named[0]:\n',
        "    if not named:\n",
        "tests/end_to_end/test_identity_listener.py::test_the_host_comes_from_the_gateway_and_from_nobody_else",
    ),
    Mutation(
        "A token is looked at once more behind the wait for it",
        "proxy/token_service/handout.py",
        "        if time.monotonic() >= token.usable_until_mono:\n",
        "        if time.monotonic() < 0:\n",
        "tests/unit/test_token_service_handout.py",
    ),
    Mutation(
        "Content is never taken for a request where the proxy answers itself",
        "proxy/http_server.py",
        "                or head.has_content\n",
        "",
        "tests/wire/test_http_server.py::test_behind_content_or_an_upgrade_nothing_is_read",
    ),
    Mutation(
        "A token file is for its owner alone",
        "proxy/token_service/token_files.py",
        "        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)\n",
        "        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)\n",
        "tests/unit/test_token_service_files.py",
    ),
    # The CA.
    Mutation(
        "The CA signs for routed hosts alone",
        "proxy/interception/leaf.py",
        "    if not ca.permits(name):\n",
        "    if not name:\n",
        "tests/unit/test_interception_leaf.py",
    ),
    Mutation(
        "A leaf signs handshakes, and no certificates",
        "proxy/interception/leaf.py",
        "        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)\n",
        "        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)\n",
        "tests/unit/test_interception_leaf.py",
    ),
    Mutation(
        "A leaf does not outlive its CA",
        "proxy/interception/leaf.py",
        "    not_after = min(now + LIFE, ca.not_after)\n",
        "    not_after = now + LIFE\n",
        "tests/unit/test_interception_leaf.py",
    ),
    Mutation(
        "A CA for names alone may sign for no address",
        "proxy/interception/names.py",
        "        excluded = None if self.addresses else [x509.IPAddress(ALL_IPV4), x509.IPAddress(ALL_IPV6)]\n",
        "        excluded = None\n",
        "tests/unit/test_interception_names.py tests/unit/test_interception_authority.py",
    ),
    # The message.
    Mutation(
        "No coding but chunked frames a message",
        "proxy/relay/message.py",
        'or line[18:].strip(b" \\t").lower() != b"chunked":\n',
        'or not line.lower().endswith(b"chunked"):\n',
        "tests/wire/test_relay_refusals.py -k coding",
    ),
    Mutation(
        "Connection cannot take a message's length away",
        "proxy/relay/message.py",
        '_NEVER_NOMINATED: Final = frozenset((b"host", b"content-length", ',
        '_NEVER_NOMINATED: Final = frozenset((b"host", ',
        "tests/wire/test_relay_corpus.py -k Connection",
    ),
    Mutation(
        "Proxy-Authorization ends at the proxy",
        "proxy/relay/message.py",
        '        b"proxy-authorization",\n        b"proxy-connection",\n        b"te",\n',
        '        b"proxy-connection",\n        b"te",\n',
        "tests/wire/test_relay_corpus.py tests/security/test_clients.py -k 'proxy and authorization'",
    ),
    # The process.
    Mutation(
        "Nobody else of the same user reads the process's memory",
        "proxy/hardening.py",
        "            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)\n",
        "            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)\n",
        "tests/security/test_process.py",
    ),
    Mutation(
        "Run by root, the proxy keeps the capabilities it needs alone",
        "proxy/hardening.py",
        "            data[index] &= _CAPABILITIES_KEPT if index < 3 else 0\n",
        "            data[index] &= _CAPABILITIES_KEPT if index < 1 else 0xFFFF_FFFF\n",
        "tests/security/test_process.py",
    ),
)
