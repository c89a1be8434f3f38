"""The cost of a request, measured side by side. Run `python -m benchmarks --help`; README.md has the method.

cells.py       the table: what is measured, on whom, and the target
stage.py       the directory, the certificates and the nginx upstream that all proxies stand in front of
rivals.py      how each proxy is started and configured
packages.py    rivals from PyPI, each in an environment of its own
processes.py   programs pinned to a core, and what they have used
wrk.py         load over kept-alive connections, by wrk
client.py      load that wrk cannot make: CONNECT, handshakes, tunnels, WebSocket, idle connections
loads.py       one round of a load against one proxy
figures.py     medians, spreads, ratios
report.py      the table on the terminal and results.md
chart.py       the picture for the README
smoke.py       the guard in CI: us against `bare_relay.py`, as a ratio
"""
