"""Suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest known names, to end an error's text with.

    Parameters
    ----------
    name
        What was written.
    known
        What could have been meant.

    Returns
    -------
    " Did you mean ...?"; empty where nothing is near.

    Examples
    --------
    >>> did_you_mean("fedagv", ["fedavg", "scaffold", "moon"])
    " Did you mean 'fedavg'?"
    >>> did_you_mean("learning-rate", ["lr"])
    ''
    """
    near = get_close_matches(name, sorted(set(known)), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
