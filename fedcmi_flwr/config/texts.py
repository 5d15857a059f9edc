"""Values and assignments as people write them into one text: TOML, or a bare word for a text."""

import json
import re
import tomllib
from collections.abc import Mapping

from fedcmi_flwr.types import Scalar

ASSIGNMENT = re.compile(r"""\s*([\w-]+)\s*=\s*('[^']*'|"[^"]*"|[^\s'"]+)(?=\s|$)""")
"""key=value, the value quoted where it holds spaces."""


def read_value(text: str) -> Scalar:
    """Return the value that a text stands for.

    Parameters
    ----------
    text
        TOML, or a bare word.

    Returns
    -------
    What TOML makes of it where that is one number, truth value or text; else the text itself.

    Examples
    --------
    >>> read_value("0.5"), read_value("true"), read_value("'a b'"), read_value("concat"), read_value("{a = 1}")
    (0.5, True, 'a b', 'concat', '{a = 1}')
    """
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text

    return value if isinstance(value, bool | int | float | str) else text


def read_assignments(text: str) -> dict[str, Scalar]:
    """Return the keys and values of a text such as "depth=3 mode=mean" or "{depth = 3, mode =
    'mean'}".

    Parameters
    ----------
    text
        A TOML inline table, or key=value separated by spaces; empty for none.

    Returns
    -------
    Key -> value.

    Raises
    ------
    ValueError
        Neither of them, a key that stands there twice, or a value that is no number, truth value
        or text.

    Examples
    --------
    >>> read_assignments("depth=3 mode=mean") == read_assignments("{depth = 3, mode = 'mean'}")
    True
    """
    if text.lstrip().startswith("{"):
        return _inline_table(text)

    found: dict[str, Scalar] = {}
    position, text = 0, text.rstrip()
    while position < len(text):
        match = ASSIGNMENT.match(text, position)
        if match is None or match[1] in found:
            raise ValueError(
                f"at {text[position:].strip()!r}: must be key=value key=value, each key once."
            )

        found[match[1]] = read_value(match[2])
        position = match.end()

    return found


def _inline_table(text: str) -> dict[str, Scalar]:
    try:
        table: dict[str, object] = tomllib.loads(f"table = {text}")["table"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not a TOML inline table ({error}).") from error

    scalars: dict[str, Scalar] = {
        k: v for k, v in table.items() if isinstance(v, bool | int | float | str)
    }
    for key in table:
        if key not in scalars:
            raise ValueError(f"{key} = {table[key]!r}: must be a number, true or false, or a text.")

    return scalars


def write_assignments(values: Mapping[str, Scalar]) -> str:
    """Return a text that :func:`read_assignments` reads back.

    Parameters
    ----------
    values
        Key -> value; a text must not hold single quotes.

    Returns
    -------
    key=value, separated by spaces.

    Examples
    --------
    >>> write_assignments({"depth": 3, "on": True, "mode": "mean"})
    "depth=3 on=true mode='mean'"
    """
    return " ".join(f"{key}={_written(value)}" for key, value in values.items())


def _written(value: Scalar) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def write_toml(values: Mapping[str, Scalar]) -> str:
    r"""Return flat values as TOML, whatever characters their texts hold.

    Parameters
    ----------
    values
        Key -> value; numbers are finite.

    Returns
    -------
    A line for each.

    Examples
    --------
    >>> print(write_toml({"data": 'a "b" c', "lr": 1e-05, "resume": True}))
    data = "a \"b\" c"
    lr = 1e-05
    resume = true
    """
    return "\n".join(f"{key} = {_in_toml(value)}" for key, value in values.items())


def _in_toml(value: Scalar) -> str:
    """Return a value in TOML, which escapes like JSON does, and the character DEL too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
