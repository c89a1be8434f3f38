"""What real programs send first is read as what they ask for, whatever the sizes in which it comes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from proxy.relay.client_hello import ClientHello, ClientHelloReader

if TYPE_CHECKING:
    from pathlib import Path

NAME = "contoso.test"
_NODE = """
const options = {host: '127.0.0.1', port: %d, servername: '%s', ALPNProtocols: ['h2', 'http/1.1']};
require('tls').connect(options).on('error', () => {});
"""
_JAVA = """
import java.net.Socket;
import javax.net.ssl.*;
public class Hello {
    public static void main(String[] arguments) throws Exception {
        SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
        Socket plain = new Socket("127.0.0.1", Integer.parseInt(arguments[0]));
        SSLSocket socket = (SSLSocket) factory.createSocket(plain, arguments[1], 443, true);
        SSLParameters parameters = socket.getSSLParameters();
        parameters.setApplicationProtocols(new String[] {"h2", "http/1.1"});
        socket.setSSLParameters(parameters);
        try { socket.startHandshake(); } catch (java.io.IOException expected) { }
    }
}
"""


def _command(program: str, port: int, scratch: Path) -> list[str]:
    if program == "openssl":
        return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-alpn", "h2,http/1.1"]
    if program == "curl":
        return [
            "curl",
            "--silent",
            "--noproxy",
            "*",
            "--resolve",
            f"{NAME}:{port}:127.0.0.1",
            f"https://{NAME}:{port}/",
        ]
    if program == "node":
        return ["node", "-e", _NODE % (port, NAME)]
    source = scratch / "Hello.java"
    source.write_text(_JAVA, encoding="ascii")
    return ["java", "-XX:TieredStopAtLevel=1", str(source), str(port), NAME]


@pytest.mark.parametrize("program", ["openssl", "curl", "node", "java"])
def test_what_a_program_asks_for_is_read(program: str, tmp_path: Path) -> None:
    """One byte at a time, so that whatever is read is read from what has come."""
    if shutil.which(program) is None and "CI" not in os.environ:
        pytest.skip(f"{program} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        command = _command(program, server.getsockname()[1], tmp_path)
        client = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            reader, found = ClientHelloReader(), None
            while found is None:
                block = connection.recv(1)
                assert block, "the client went away"
                found = reader.feed(block)
        client.communicate(timeout=60)
    assert found == ClientHello(NAME, (b"h2", b"http/1.1"), has_ech=False)
