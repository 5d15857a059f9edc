"""A picture on a page says what it shows, and one in a file is one."""

from functools import partial

from server_app.figures.drawing import draw_lines
from server_app.figures.savers import svg_chart


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    """Even where there is nothing to draw."""
    empty = partial(draw_lines, lines=[], xlabel="x", ylabel="y", limits=(0, 1))
    made = svg_chart("losses", "two words", "A <title>", "and more", 2, empty)
    assert made.id == "losses-two-words"
    assert 'role="img" aria-label="A &lt;title&gt;. and more"' in made.svg
