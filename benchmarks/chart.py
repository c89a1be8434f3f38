"""The picture for the README: CPU time a request. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pygal  # type: ignore[import-untyped]  # has no types
from pygal.style import Style  # type: ignore[import-untyped]  # see above

from benchmarks.report import format_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Row

# What a user would pick instead, from the nearest to the farthest; and the cells that are about one request.
_SHOWN: Final = {
    "nginx": "#6b7280",
    "haproxy": "#9ca3af",
    "ours": "#2563eb",
    "squid": "#d97706",
    "proxy.py": "#b45309",
    "mitmproxy": "#b91c1c",
}
_CELLS: Final = {
    "plain-get": "plain upstream",
    "tls-get": "TLS upstream",
    "intercepted-get": "TLS both sides",
    "exchange": "16 KiB up, 64 KiB down",
    "new-connections": "new TLS connection",
}


def draw_chart(rows: Sequence[Row]) -> str:
    """Returns an SVG of the rows that are about one request."""
    shown = [row for row in rows if row.cell.name in _CELLS]
    names = [name for name in _SHOWN if any(name == one.rival for row in shown for one in row.results)]
    chart = pygal.Bar(
        style=Style(
            background="#ffffff",
            plot_background="#ffffff",
            foreground="#374151",
            foreground_strong="#111827",
            foreground_subtle="#6b7280",
            colors=tuple(_SHOWN[name] for name in names),
            font_family="sans-serif",
            value_font_size=11,
            opacity="1",
        ),
        title="CPU time a request, µs (logarithmic: each line is ten times the one below)",
        logarithmic=True,
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: format_figure(value) if value else "",
        legend_at_bottom=True,
        legend_at_bottom_columns=6,
        width=1000,
        height=480,
        js=[],
        no_prefix=True,
        show_minor_y_labels=False,
        y_labels=[1, 10, 100, 1_000, 10_000],
        range=(1, 10_000),
    )
    chart.x_labels = [_CELLS[row.cell.name] for row in shown]
    for name in names:
        figures = [{one.rival: one.figure for one in row.results}.get(name) for row in shown]
        chart.add("apim-auth-proxy" if name == "ours" else name, figures)
    drawn: str = chart.render(is_unicode=True)
    return drawn
