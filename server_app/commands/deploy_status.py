"""How `fedcmi deploy status` shows processes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from server_app.deploy.status import Status

HEAD = ("process", "registered", "online", "seen", "version", "clock", "free", "data")


def status_table(found: Sequence["Status"]) -> Table:
    """Return a table with a line for each process.

    Parameters
    ----------
    found
        The processes.

    Returns
    -------
    The table; what others wrote stands in it as it is, never as markup.
    """
    table = Table(*HEAD, box=SIMPLE_HEAD)
    words = {True: "yes", False: "no", None: "-"}
    for each in found:
        cells = [
            each.name,
            words[each.registered],
            words[each.online],
            "-" if each.seen is None else f"{each.seen:.0f} s",
            each.version or "-",
            "-" if each.clock_difference is None else f"{each.clock_difference:+.1f} s",
            "-" if each.disk_free is None else f"{each.disk_free / 1e9:.0f} GB",
            (each.data or "-")[:8],
        ]
        table.add_row(*map(Text, cells))

    return table


def status_notes(found: Sequence["Status"]) -> list[str]:
    """Return what processes say, a line each; signs that a terminal would obey are replaced."""
    said = [f"{each.name}: {text}" for each in found for text in (each.note, each.refusal) if text]
    return ["".join(sign if sign.isprintable() else "?" for sign in line) for line in said]
