"""Pictures: what is not known is not drawn as zero."""

from matplotlib.figure import Figure

from server_app.figures.drawing import draw_nodes


def test_an_unknown_number_of_samples_is_hatched_and_not_zero() -> None:
    """Node 0 has 5 samples, node 7 is unknown: its bar is as high as the highest, and hatched."""
    figure = Figure()
    draw_nodes(figure, ["0", "7"], [["audio"], ["audio"]], [5, None], {"audio": "#0072b2"})
    known, unknown = figure.axes[1].patches
    assert (known.get_height(), known.get_hatch()) == (5, None)
    assert (unknown.get_height(), bool(unknown.get_hatch())) == (5, True)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0", "7"]
