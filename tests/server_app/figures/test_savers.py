"""A picture on a page says what it shows, and one in a file is one."""

from functools import partial
from pathlib import Path

import matplotlib

from server_app.figures.drawing import BLACK, Line, draw_lines
from server_app.figures.savers import save_png, svg_chart


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    """Even where there is nothing to draw."""
    empty = partial(draw_lines, lines=[], xlabel="x", ylabel="y", limits=(0, 1))
    made = svg_chart("losses", "two words", "A <title>", "and more", 2, empty)
    assert made.id == "losses-two-words"
    assert 'role="img" aria-label="A &lt;title&gt;. and more"' in made.svg


def test_a_file_is_the_same_picture_whatever_the_users_style_says(tmp_path: Path) -> None:
    """Of 5 x 2 inches at 120 dots each; a PNG's width and height are the bytes 16 to 23."""
    draw = partial(
        draw_lines, lines=[Line("a", [0, 1], [2, 3], BLACK)], xlabel="x", ylabel="y", limits=(0, 4)
    )
    save_png(tmp_path / "a.png", 5, 2, draw)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        save_png(tmp_path / "b.png", 5, 2, draw)
    content = (tmp_path / "a.png").read_bytes()
    assert content[16:24] == (600).to_bytes(4, "big") + (240).to_bytes(4, "big")
    assert (tmp_path / "b.png").read_bytes() == content
