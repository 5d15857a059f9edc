"""Pictures: what is not known is not drawn as zero, and each of several is whole, under its
title.
"""

from functools import partial

import pytest
from matplotlib.figure import Figure

from server_app.figures.drawing import BLACK, Line, draw_lines, draw_nodes, draw_panels


def test_an_unknown_number_of_samples_is_hatched_and_not_zero() -> None:
    """Node 0 has 5 samples, node 7 is unknown: its bar is as high as the highest, and hatched."""
    figure = Figure()
    draw_nodes(figure, ["0", "7"], [["audio"], ["audio"]], [5, None], {"audio": "#0072b2"})
    known, unknown = figure.axes[1].patches
    assert (known.get_height(), known.get_hatch()) == (5, None)
    assert (unknown.get_height(), bool(unknown.get_hatch())) == (5, True)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0", "7"]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_panels_have_their_titles_and_what_is_drawn_in_each(side_by_side: bool) -> None:
    lines = {
        name: [Line(name, [0, 1], [value, value], BLACK)]
        for name, value in (("a", 1.0), ("b", 2.0))
    }
    panels = {
        f"of {name}": partial(draw_lines, lines=line, xlabel="x", ylabel="y", limits=(0, 4))
        for name, line in lines.items()
    }
    figure = Figure()
    draw_panels(figure, panels, side_by_side)
    parts = list(figure.subfigs)
    assert [part.get_suptitle() for part in parts] == ["of a", "of b"]
    assert [part.axes[0].lines[0].get_ydata().tolist() for part in parts] == [
        [1.0, 1.0],
        [2.0, 2.0],
    ]
    (left, bottom), (other_left, other_bottom) = [(part.bbox.x0, part.bbox.y0) for part in parts]
    assert (other_left > left, other_bottom < bottom) == (side_by_side, not side_by_side)
