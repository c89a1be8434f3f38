"""The picture for the README: CPU time a request, nginx being 1. Does no I/O.

Bars start at zero on a linear scale, so that lengths compare; a proxy that would dwarf the others is named in the title instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pygal  # type: ignore[import-untyped]  # has no types
from pygal.style import Style  # type: ignore[import-untyped]  # see above

from benchmarks.report import format_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Row

_BASE: Final = "nginx"
_COLOURS: Final = {
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
    "intercepted-get": "TLS on both sides",
    "exchange": "16 KiB up, 64 KiB down",
    "new-connections": "new TLS connection",
}
_OFF_SCALE: Final = 15.0  # times nginx


def relate(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return, for each cell that is about one request, each proxy's figure as a multiple of nginx's."""
    related = {}
    for row in rows:
        figures = {one.rival: one.figure for one in row.results}
        if row.cell.name in _CELLS and figures.get(_BASE):
            related[row.cell.name] = {name: figures[name] / figures[_BASE] for name in _COLOURS if name in figures}
    return related


def format_title(related: dict[str, dict[str, float]]) -> str:
    """Return the title, which names what is off the scale and by how much."""
    title = "CPU time a request, as a multiple of nginx's"
    beyond: dict[str, list[float]] = {}
    for ratios in related.values():
        for name, ratio in ratios.items():
            if ratio > _OFF_SCALE:
                beyond.setdefault(name, []).append(ratio)
    for name, ratios_of in beyond.items():
        title += f" ({name}, at {min(ratios_of):.0f} to {max(ratios_of):.0f}, is not drawn)"
    return title


def draw_chart(rows: Sequence[Row]) -> str:
    """Return an SVG of the rows that are about one request."""
    related = relate(rows)
    names = [
        name for name in _COLOURS if any(ratios.get(name, _OFF_SCALE + 1) <= _OFF_SCALE for ratios in related.values())
    ]
    chart = pygal.Bar(
        style=Style(
            background="#ffffff",
            plot_background="#ffffff",
            foreground="#374151",
            foreground_strong="#111827",
            foreground_subtle="#d1d5db",
            colors=tuple(_COLOURS[name] for name in names),
            font_family="sans-serif",
            value_font_size=11,
            opacity="1",
        ),
        title=format_title(related),
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: format_figure(value) if value is not None else "",
        legend_at_bottom=True,
        legend_at_bottom_columns=6,
        include_x_axis=True,
        width=1000,
        height=480,
        js=[],
        no_prefix=True,
    )
    chart.x_labels = [_CELLS[name] for name in related]
    for name in names:
        ratios = [ratios.get(name) for ratios in related.values()]
        drawable = [None if ratio is None or ratio > _OFF_SCALE else ratio for ratio in ratios]
        chart.add("apim-auth-proxy" if name == "ours" else name, drawable)
    drawn: str = chart.render(is_unicode=True)
    return drawn
