"""The table and the picture of a simulated fleet. Does no I/O."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.fleet.model import PlatformSettings
    from benchmarks.fleet.stories import Outcome


def format_report(outcomes: Sequence[Outcome], platform: PlatformSettings) -> str:
    """Return the page."""
    low, high = platform.life_s
    fastest, slowest = platform.answers_in_s
    limit = "any number of requests" if platform.limit is None else f"{platform.limit} requests in 10 s"
    lines = [
        "# A fleet, simulated",
        "",
        "`make simulate-fleet` writes this page: the product's own token machinery in virtual time, against a model of the",
        "identity platform. [docs/scaling.md](../docs/scaling.md) says what to make of it.",
        "",
        f"Assumed: tokens live {low / 60:.0f} to {high / 60:.0f} min; the platform answers in {fastest:g} to {slowest:g} s, takes",
        f"{limit} of one application, and answers more with 429 and `Retry-After: {platform.retry_after_s}`.",
        "Clocks differ by up to two minutes either way. Entra ID publishes no limits, so these are not its.",
        "",
        "*Herd factor*: the fleet's token requests, as a multiple of what one replica makes in the same story. *Without a",
        "token*: for how long a replica could not have sent a request, its start included.",
        "",
    ]
    for story, group in groupby(outcomes, key=lambda one: one.story):
        rows = list(group)
        alone = next((one.requests for one in rows if one.replicas == 1), 1)
        lines += [
            f"## {story.name[0].upper()}{story.name[1:]}",
            "",
            f"{story.text[0].upper()}{story.text[1:]}.",
            "",
            "| replicas | tokens | requests | herd factor | busiest minute | busiest 10 s | 429 | without token, mean | longest |",
            "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_format_row(one, alone) for one in rows]
        lines.append("")
    return "\n".join(lines)


def _format_row(one: Outcome, alone: int) -> str:
    cells = [
        f"{one.replicas:,}",
        "shared" if one.is_shared else "each its own",
        f"{one.requests:,}",
        f"{one.requests / alone:,.1f}",
        f"{one.busiest_minute:,}",
        f"{one.busiest_10s:,}",
        f"{one.throttled:,}",
        _seconds(one.without_s),
        _seconds(one.without_longest_s),
    ]
    return f"| {' | '.join(cells)} |"


def draw(outcomes: Sequence[Outcome]) -> str:
    """Return an SVG: token requests a minute of the largest fleet in a deployment, each its own and shared."""
    # Only who draws needs it.
    import pygal  # type: ignore[import-untyped]  # noqa: PLC0415  # has no types
    from pygal.style import Style  # type: ignore[import-untyped]  # noqa: PLC0415  # see above

    rows = [one for one in outcomes if one.story.restarts_at_s is not None and not one.story.store_away]
    largest = max(one.replicas for one in rows)
    style = Style(background="white", plot_background="white", colors=("#b91c1c", "#2563eb"), font_family="sans-serif")
    chart = pygal.Line(
        style=style,
        width=900,
        height=360,
        show_dots=False,
        logarithmic=False,
        show_minor_x_labels=False,
        title=f"Token requests a minute, {largest:,} replicas, all restarted after an hour",
        x_title="minutes",
        js=[],
    )
    length = max(len(one.minutes) for one in rows)
    chart.x_labels = [str(minute) for minute in range(length)]
    chart.x_labels_major_every = 30
    for one in sorted((row for row in rows if row.replicas == largest), key=lambda row: row.is_shared):
        chart.add("shared in Redis" if one.is_shared else "each its own", list(one.minutes))
    picture: bytes = chart.render()
    return picture.decode() + "\n"


def _seconds(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min" if seconds >= 120 else f"{seconds:,.1f} s"
