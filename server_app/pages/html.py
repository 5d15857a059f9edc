"""One HTML page that needs nothing but itself: styles, tables and figures.

All text is escaped here.
"""

from collections.abc import Iterable, Sequence
from html import escape

from server_app.figures.savers import Chart

_CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1b1b1b; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid #0072b2; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 75ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.caption { color: #444; margin: .6rem 0 .3rem; }
.caption.name { font-weight: 600; color: #1b1b1b; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, .texts th, .texts td { text-align: left; }
th:first-child { position: sticky; left: 0; background: #fff; }
.texts td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: normal; }
td strong { color: #00507d; }
.tables, .charts { display: grid; gap: 1.2rem; align-items: start; }
.tables { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.charts { margin-top: 1.2rem; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-bottom: .3rem; }
figcaption span { display: block; color: #444; font-size: .9rem; }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: .8rem 0; }
dt { color: #444; font-size: .85rem; }
dd { margin: 0; font-size: 1.3rem; }
.error { border-left: .4rem solid #b00020; background: #fdf0f1; padding: .6rem 1rem; }
pre { overflow-x: auto; font-size: .8rem; }
"""


class Strong(str):
    """A cell of a table that stands out."""

    __slots__ = ()


def page(title: str, *parts: str, refresh: int = 0) -> str:
    """Return a whole page; its policy forbids the browser every request and every script.

    Parameters
    ----------
    title
        Plain text.
    *parts
        HTML.
    refresh
        Seconds after which a browser reads the page again; 0: never.

    Returns
    -------
    HTML.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        *([f'<meta http-equiv="refresh" content="{refresh}">'] if refresh else []),
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</main>\n</body>\n</html>\n"])


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Return a row of names with values."""
    return (
        "<dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in items)
        + "</dl>"
    )


def bullets(lines: Iterable[str]) -> str:
    """Return a list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def failure(reason: str, details: str) -> str:
    """Return a box that says why something failed; ``details`` unfold."""
    more = f"<details><summary>Details</summary><pre>{escape(details)}</pre></details>"
    return (
        '<div class="error" role="alert"><p><strong>Failed.</strong> '
        f"{escape(reason)}</p>{more}</div>"
    )


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], texts: bool = False
) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Parameters
    ----------
    caption
        Plain text; says what the table shows.
    head
        Names of the columns; the first column names the rows. Empty: no header.
    rows
        Plain texts; :class:`Strong` ones stand out.
    texts
        Cells are texts, not numbers: aligned left, and wrapped.

    Returns
    -------
    HTML.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, others))}</tr>'
        for first, *others in rows
    )
    label = f'aria-label="{escape(caption)}"'

    return (
        f'<div><p class="caption{" name" if texts else ""}">{escape(caption)}</p>'
        f'<div class="scroll" role="region" tabindex="0" {label}><table{" class=texts" if texts else ""} {label}>'
        f"{f'<thead><tr>{top}</tr></thead>' if head else ''}\n<tbody>\n{body}\n</tbody></table></div></div>"
    )


def _cell(text: str) -> str:
    return (
        f"<td><strong>{escape(text)}</strong></td>"
        if isinstance(text, Strong)
        else f"<td>{escape(text)}</td>"
    )


def side_by_side(tables: Iterable[str]) -> str:
    """Return tables in as many columns as fit."""
    return f'<div class="tables">{"".join(tables)}</div>'


def figures(charts: Iterable[Chart]) -> str:
    """Return charts in as many columns as fit."""
    return f'<div class="charts">\n{"".join(map(_figure, charts))}</div>'


def _figure(chart: Chart) -> str:
    return (
        f'<figure id="{escape(chart.id)}" data-chart="{escape(chart.kind)}">'
        f"<figcaption><strong>{escape(chart.title)}</strong><span>{escape(chart.caption)}</span></figcaption>\n"
        f"{chart.svg}\n</figure>\n"
    )
