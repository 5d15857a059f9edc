"""``fedcmi keys``.

Every key of a run-config and a node-config, for the terminal and for the README of the keys.
"""

import inspect
import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.commands.terminal import console, fail
from server_app.figures.markdown import markdown_table

if TYPE_CHECKING:
    from fedcmi_flwr.key_table import Key, KeySection

BEGIN = "<!-- keys: written by `fedcmi keys --markdown FILE` -->"
END = "<!-- end of keys -->"
WIDTH = 100
"""Characters in a line of the list."""
COLUMNS = ("key", "default", "allowed", "meaning", "used by")
"""Of the README's tables."""


def keys(
    name: Annotated[
        str | None, typer.Argument(help="Only this key, with what each method does with it.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Write all keys as tables into this file, between its markers."),
    ] = None,
) -> None:
    """Show every key of a run: default, what is allowed, meaning, and the methods that use it."""
    from fedcmi_flwr.key_table import find_keys, key_sections
    from server_app.pyproject import default_run_config

    try:
        sections = key_sections(default_run_config())
        if markdown is not None:
            write_tables(markdown, sections)
        elif name is not None:
            texts = [in_full(key) for key in find_keys(sections, name)]
            console.print("\n\n".join(texts))
        else:
            console.print("\n\n".join(map(listed, sections)))
    except (OSError, ValueError) as error:
        raise fail(error) from error


# ---- for the terminal


def listed(section: "KeySection") -> str:
    """Return a section of keys as lines of text."""
    title = f"[{section.name}] {section.meaning}".replace("``", "")
    return "\n\n".join([title, *map(described, section.keys)])


def described(key: "Key") -> str:
    """Return what there is to say of a key, a line for each fact."""
    title = key.name if key.default is None else f"{key.name} = {json.dumps(key.default)}"
    facts = {"allowed": key.allowed, "meaning": key.meaning, "used by": used_by(key)}
    return "\n".join([title, *(_fact(name, text) for name, text in facts.items())])


def in_full(key: "Key") -> str:
    """Return a key as in the list.

    Where it is a hyperparameter, with what the methods that have it do.
    """
    from fedcmi_flwr.methods import METHODS

    users: dict[str, list[str]] = {}
    for name in key.method_defaults:
        objective = (inspect.getdoc(METHODS[name]) or "").partition("\n")[0]
        users.setdefault(objective, []).append(name)

    return "\n".join(
        [
            described(key),
            *(_fact(", ".join(names), objective) for objective, names in users.items()),
        ]
    )


def used_by(key: "Key") -> str:
    """Return the methods that use a key; of a hyperparameter with the value that each of them has.

    Parameters
    ----------
    key
        Any key.

    Returns
    -------
    "all", "fedcmi 1.0, fedcmi-plus 0.3", "all 0.0, but fedprox 1.0", ...
    """
    if not key.method_defaults:
        return "all" if key.for_all else ", ".join(key.methods)

    values = {name: json.dumps(value) for name, value in key.method_defaults.items()}
    if not key.for_all:
        return ", ".join(f"{name} {value}" for name, value in values.items())

    [(usual, _)] = Counter(values.values()).most_common(1)
    others = [f"{name} {value}" for name, value in values.items() if value != usual]

    return f"all {usual}" + (f", but {', '.join(others)}" if others else "")


def _fact(name: str, text: str) -> str:
    indent = " " * 4
    return textwrap.fill(
        f"{name}: {text.replace('``', '')}",
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent * 2,
    )


# ---- for the README


def write_tables(path: Path, sections: "Iterable[KeySection]") -> None:
    """Put the tables of all keys between the markers of a Markdown file, in the place of what stood
    there.

    Parameters
    ----------
    path
        The file.
    sections
        All keys.

    Raises
    ------
    ValueError
        The file does not have the two markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"{path}: needs a line {BEGIN!r} and, after it, a line {END!r}; the tables go between "
            "them."
        )

    write_atomically(path, f"{before}{BEGIN}\n\n{tables(sections)}\n\n{END}{after}")


def tables(sections: "Iterable[KeySection]") -> str:
    """Return all keys in Markdown, a table for each section."""
    return "\n\n".join(map(_table, sections))


def _table(section: "KeySection") -> str:
    rows = []
    for key in section.keys:
        default = "" if key.default is None else f"`{json.dumps(key.default)}`"
        rows.append([f"`{key.name}`", default, key.allowed, key.meaning, used_by(key)])

    return "\n".join(
        [f"### {section.name}", "", section.meaning, "", *markdown_table(COLUMNS, rows)]
    )
