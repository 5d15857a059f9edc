"""Tables in Markdown: the one place that writes them."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    r"""Return the lines of a table.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        As many texts each as there are columns; a "|" in one is escaped.

    Returns
    -------
    One line for the head, one below it, and one for each row.

    Examples
    --------
    >>> print("\n".join(markdown_table(["class", "accuracy"], [["a|b", "50.0%"]])))
    | class | accuracy |
    |---|---|
    | a\|b | 50.0% |
    """
    return [_line(head), "|---" * len(head) + "|", *(_line(cells) for cells in rows)]


def _line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
