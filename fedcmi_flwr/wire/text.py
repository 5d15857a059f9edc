"""Texts of other machines, made fit for a log."""

LONGEST_LINE = 2000
"""Characters of a line about a reply that are kept."""


def one_line(text: str) -> str:
    r"""Return a text of another machine so that it neither breaks the log nor fills the disk.

    Parameters
    ----------
    text
        Any; parts of it may be the other machine's.

    Returns
    -------
    Printable characters, escapes for the others, at most LONGEST_LINE of them before escaping.

    Examples
    --------
    >>> print(one_line("error 2: first" + chr(10) + "second"))
    error 2: first\nsecond
    """
    kept = text[:LONGEST_LINE]
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in kept)
