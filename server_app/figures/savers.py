"""Where pictures go: into a page as SVG, or into a PNG file.

In a page text stays text, and equal data give equal bytes.
"""

import io
import re
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from fedcmi_flwr.machine.atomic_files import replacing
from server_app.figures.drawing import Draw

WIDTH = 5.0
"""Inches of every chart; the page scales it."""
DOTS = 120
"""Of a PNG, per inch."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes may hold dollar signs
    "path.simplify": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.6,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Chart:
    """One figure of a page."""

    kind: str
    """What is drawn: "accuracy-over-rounds", ..."""
    of: str
    """Which of several of this kind, e.g. a modality; empty: there is one."""
    title: str
    caption: str
    svg: str

    @property
    def id(self) -> str:
        """The figure's id in the page."""
        return "-".join([self.kind, *self.of.split()])


def svg_chart(kind: str, of: str, title: str, caption: str, height: float, draw: Draw) -> Chart:
    """Draw a chart for a page.

    Parameters
    ----------
    kind
        As in :class:`Chart`.
    of
        As in :class:`Chart`.
    title
        Plain text.
    caption
        Plain text.
    height
        Inches.
    draw
        The picture.

    Returns
    -------
    The chart.
    """
    # Ids differ between the charts of a page, not between pages
    salted = {
        **_STYLE,
        "svg.hashsalt": f"{kind} {of}",
    }
    buffer = io.StringIO()
    with matplotlib.style.context(["default", salted]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has other fonts
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)

    return Chart(kind, of, title, caption, _inline(buffer.getvalue(), f"{title}. {caption}"))


def save_png(path: Path, width: float, height: float, draw: Draw) -> None:
    """Draw a picture into a file.

    Parameters
    ----------
    path
        Replaced if it exists.
    width
        Inches.
    height
        Inches.
    draw
        The picture.
    """
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=DOTS)


def _inline(svg: str, label: str) -> str:
    """Return an SVG file as an element of a page.

    Scaled by the page, and without the ids that every chart has.
    """
    found = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert found is not None
    body = re.sub(r'<g id="[^"]*"', "<g", svg[found.end() :])

    return f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(label)}">{body.strip()}'
