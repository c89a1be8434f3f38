"""Measures which programs call an https URL through the proxy under `exec` alone, for the table of docs/clients.md.

    python -m tests.client_table            measures, and writes the table into the page
    python -m tests.client_table --json URL under `exec`: measures, and prints what was found

Programs that are not installed keep the row they have.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "clients.md"
BEGIN: Final = "<!-- measured by `make clients-table` -->\n"
END: Final = "<!-- end -->\n"
URL: Final = "https://contoso.azure-api.localhost/orders"
PATIENCE_S: Final = 120.0
PACKAGES: Final = (
    "undici-5-22@npm:undici@5.22.1",
    "undici-5-28@npm:undici@5.28.5",
    "undici-6-2@npm:undici@6.2.1",
    "undici-7@npm:undici@7.30.2",
    "https-proxy-agent@7.0.6",
    "hpagent-0-1@npm:hpagent@0.1.2",
    "hpagent-1@npm:hpagent@1.2.0",
    "tunnel-agent@0.6.0",
    "axios@1.21.1",
    "got@11.8.5",
    "global-agent@3.0.0",
)
LIBRARIES: Final = (
    "undici 5.22",
    "undici 5.28",
    "undici 6.2",
    "undici 7",
    "undici 7 EnvHttpProxyAgent",
    "https-proxy-agent 7",
    "hpagent 0.1",
    "hpagent 1",
    "tunnel-agent 0.6",
    "axios 1",
    "got 11 with hpagent",
    "global-agent 3",
    "node:http CONNECT",
)
NODE: Final = ["node", str(ROOT / "tests/end_to_end/clients/node_libraries.cjs")]
PYTHON: Final = [sys.executable, "-c"]
AIOHTTP: Final = """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession({}) as session, session.get(sys.argv[1]) as response:
        print(response.status)
asyncio.run(main())
"""
JAVA: Final = """
import java.net.*;
import java.net.http.*;
class Call {
    public static void main(String[] arguments) throws Exception {
        var uri = URI.create(arguments[1]);
        if (arguments[0].equals("new")) {
            var request = HttpRequest.newBuilder(uri).build();
            System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        } else {
            System.out.println(((HttpURLConnection) uri.toURL().openConnection()).getResponseCode());
        }
    }
}
"""
GO: Final = """
package main

import ("fmt"; "net/http"; "os")

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) }
	fmt.Println(answer.StatusCode)
}
"""
PHP: Final = "$c = curl_init($argv[1]); curl_setopt($c, 19913, 1); curl_exec($c); echo curl_getinfo($c, 2097154);"
WGET: Final = 'wget -q -S -O /dev/null "$1" 2>&1 | sed -n "s/.*HTTP.* \\(200\\) .*/\\1/p"'


@dataclass(frozen=True, slots=True)
class Client:
    """A program or library.

    Attributes:
        name: in the table.
        call: prints the status of a GET for a URL that follows.
        version: prints the version somewhere in its output.
        advice: what else it needs, or what works in its place.
    """

    name: str
    call: Sequence[str]
    version: Sequence[str]
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: whether the client got its answer under `exec` alone."""

    name: str
    version: str
    works: bool


def list_clients(place: Path) -> Iterator[Client]:
    """What there is to measure, with source files written into a directory."""
    (place / "Call.java").write_text(JAVA)
    (place / "call.go").write_text(GO)
    yield Client("curl", ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"], ["curl", "--version"])
    yield Client("wget", ["sh", "-c", WGET, "wget"], ["wget", "--version"], "with a `~/.wgetrc`: `--ca-certificate`")
    for module, call in {
        "requests": "requests.get(sys.argv[1]).status_code",
        "httpx": "httpx.get(sys.argv[1]).status_code",
    }.items():
        yield Client(
            f"Python {module}",
            [*PYTHON, f"import {module}, sys; print({call})"],
            [*PYTHON, f"import {module}; print({module}.__version__)"],
        )
    urllib = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).status)"
    yield Client("Python urllib", [*PYTHON, urllib], [sys.executable, "--version"])
    aiohttp_version = [*PYTHON, "import aiohttp; print(aiohttp.__version__)"]
    yield Client("Python aiohttp", [*PYTHON, AIOHTTP.format("")], aiohttp_version, "`ClientSession(trust_env=True)`")
    yield Client("Python aiohttp with `trust_env=True`", [*PYTHON, AIOHTTP.format("trust_env=True")], aiohttp_version)
    java = ["java", "-XX:TieredStopAtLevel=1", str(place / "Call.java")]
    yield Client("Java HttpClient", [*java, "new"], ["java", "-version"])
    yield Client("Java HttpURLConnection", [*java, "old"], ["java", "-version"])
    yield Client("Go net/http", ["go", "run", str(place / "call.go")], ["go", "version"])
    ruby = ["ruby", "-rnet/http", "-e", "print Net::HTTP.get_response(URI(ARGV[0])).code"]
    yield Client("Ruby Net::HTTP", ruby, ["ruby", "--version"])
    perl = ["perl", "-MLWP::UserAgent", "-e", "print LWP::UserAgent->new(env_proxy => 1)->get(shift)->code"]
    yield Client(
        "Perl LWP with `env_proxy`", perl, ["perl", "-MLWP", "-MLWP::Protocol::https", "-e", "print LWP->VERSION"]
    )
    php = ["php", "-r", "function_exists('curl_init') || exit(1); echo PHP_VERSION;"]
    yield Client("PHP curl", ["php", "-r", PHP], php)
    newer = "Node.js 22.21 or 24.5 and later; "
    major = _find_version(["node", "--version"], os.environ).partition(".")[0]
    yield Client(
        f"Node.js {major} fetch", [*NODE, "fetch"], ["node", "--version"], f"{newer}undici's `EnvHttpProxyAgent`"
    )
    yield Client(f"Node.js {major} node:https", [*NODE, "node:https"], ["node", "--version"], f"{newer}`global-agent`")
    for library in LIBRARIES:
        yield Client(f"Node.js {library}", [*NODE, library], ["node", "--version"])


def measure(environ: Mapping[str, str], url: str) -> Iterator[Measured]:
    """Calls a URL with every client that is installed."""
    with tempfile.TemporaryDirectory() as place:
        for client in list_clients(Path(place)):
            version = _find_version(client.version, environ)
            if not version:
                continue
            if client.call[:2] == NODE and client.call[2] in LIBRARIES and "LIBRARIES_DIRECTORY" not in environ:
                continue
            done = _run([*client.call, url], environ)
            yield Measured(client.name, version, done is not None and done.stdout.strip() == "200")


def _find_version(command: Sequence[str], environ: Mapping[str, str]) -> str:
    done = _run(command, environ)
    found = (
        re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
        if done is not None and done.returncode == 0
        else None
    )
    return "" if found is None else found.group()


def _run(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    if shutil.which(command[0]) is None:
        return None
    quiet = {name: value for name, value in environ.items() if command[-1] != "-version" or name != "JAVA_TOOL_OPTIONS"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=quiet, check=False)
    except subprocess.TimeoutExpired:
        return None


def read_table(page: str) -> dict[str, tuple[str, str]]:
    """The version and the verdict of each client on the page."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    return {
        cells[1]: (cells[2], cells[3])
        for line in table.splitlines()[2:]
        if len(cells := [cell.strip() for cell in line.split("|")]) > 3
    }


def format_table(rows: Mapping[str, tuple[str, str]]) -> str:
    """The table, in the order of the clients; others stand behind them."""
    with tempfile.TemporaryDirectory() as place:
        advice = {client.name: client.advice for client in list_clients(Path(place))}
    names = [name for name in [*advice, *(name for name in rows if name not in advice)] if name in rows]
    lines = [f"| {name} | {rows[name][0]} | {rows[name][1]} | {advice.get(name, '')} |\n" for name in names]
    return "| client | version | https URL under `exec` alone | otherwise |\n|---|---|---|---|\n" + "".join(lines)


def write_page() -> None:
    """Measures under `exec`, with a sandbox, and writes what was found into the page."""
    with tempfile.TemporaryDirectory() as name:
        libraries = Path(name) / "libraries"
        quietly = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(["npm", "install", *quietly, "--prefix", str(libraries), *PACKAGES], check=True)
        command = str(Path(sys.executable).with_name("apim-auth-proxy"))
        ports = ["--listen", f"127.0.0.1:{free_port()}", "--admin", f"127.0.0.1:{free_port()}"]
        subprocess.run([command, "init", "--sandbox", "--directory", name, *ports], check=True, capture_output=True)
        done = subprocess.run(
            [
                command,
                "exec",
                "--config",
                f"{name}/config.yaml",
                "--",
                sys.executable,
                "-m",
                "tests.client_table",
                "--json",
                URL,
            ],
            cwd=ROOT,
            env={**os.environ, "LIBRARIES_DIRECTORY": str(libraries)},
            stdout=subprocess.PIPE,
            check=True,
        )
    page = PAGE.read_text(encoding="utf-8")
    rows = read_table(page) | {
        row["name"]: (row["version"], "yes" if row["works"] else "**no**") for row in json.loads(done.stdout)
    }
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + format_table(rows) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        sys.stdout.write(json.dumps([asdict(row) for row in measure(os.environ, sys.argv[2])]))
    else:
        write_page()
