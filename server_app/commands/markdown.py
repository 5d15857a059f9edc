"""Markdown in a terminal, with tables that leave nothing out.

A cell that is too long goes on in the next line.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown, TableElement
from rich.table import Table


class _WholeTable(TableElement):
    """A table whose cells are folded where Markdown's would end in an ellipsis, which makes names
    look the same.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Yield the table."""
        for part in super().__rich_console__(console, options):
            for column in part.columns if isinstance(part, Table) else ():
                column.overflow = "fold"

            yield part


class TerminalMarkdown(Markdown):
    """A text in Markdown, to be printed."""

    elements: ClassVar = {**Markdown.elements, "table_open": _WholeTable}
