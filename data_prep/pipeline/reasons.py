"""Why samples are left out, in few lines however many they are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from data_prep.pipeline.plan import Exclusion

EXAMPLES = 3
"""Named of each reason."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SEGMENT = re.compile(r"#[0-9.]+-[0-9.]+s$")


@dataclass(frozen=True)
class Reason:
    """What was left out for one reason."""

    text: str
    """As it stands with the first of them: others may differ in their numbers."""
    ids: Sequence[str]
    """Of the samples."""
    sources: Sequence[str]
    """Their files, in the same order."""
    places: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Split -> class -> samples, of those whose class is known."""


def by_reason(excluded: Iterable[Exclusion]) -> list[Reason]:
    """Group exclusions.

    A reason that begins with a file's name, or holds numbers, is the same for another file.

    Parameters
    ----------
    excluded
        In any order.

    Returns
    -------
    The most frequent reason first.
    """
    groups: dict[str, list[tuple[Exclusion, str, str]]] = {}
    for entry in excluded:
        file, text = _split(entry)
        groups.setdefault(_NUMBER.sub("0", text), []).append((entry, file, text))

    found = [_reason(group) for group in groups.values()]

    return sorted(found, key=lambda reason: -len(reason.ids))


def _reason(group: Sequence[tuple[Exclusion, str, str]]) -> Reason:
    """Return what exclusions have in common, given with their files and texts."""
    places: dict[str, dict[str, int]] = {}
    for entry, _, _ in group:
        if entry.label:
            of_split = places.setdefault(entry.split, {})
            of_split[entry.label] = of_split.get(entry.label, 0) + 1

    return Reason(
        group[0][2], [entry.id for entry, _, _ in group], [file for _, file, _ in group], places
    )


def placed(places: Mapping[str, Mapping[str, int]]) -> str:
    """Return how many samples of which class and split there are.

    Parameters
    ----------
    places
        Split -> class -> samples.

    Returns
    -------
    Empty where nothing is known.

    Examples
    --------
    >>> placed({"train": {"walk": 2, "fall": 1}, "test": {"fall": 4}})
    'train: walk 2, fall 1; test: fall 4'
    """
    parts = [f"{split}: {', '.join(f'{name} {count}' for name, count in counts.items())}"
             for split, counts in places.items() if counts]  # fmt: skip
    return "; ".join(parts)


def _split(entry: Exclusion) -> tuple[str, str]:
    """Return the file that is to blame, all of the sample's where the reason names none, and what
    is wrong with it.
    """
    files = [_SEGMENT.sub("", source) for source in entry.source.split(";")]
    first, colon, rest = entry.reason.partition(": ")
    blamed = [file for file in files if colon and PurePath(file).name == first]

    return (blamed[0], rest) if blamed else (";".join(dict.fromkeys(files)), entry.reason)


def named(names: Sequence[str], what: str) -> str:
    """Return a number and some examples.

    Parameters
    ----------
    names
        One or more.
    what
        They are, one of them.

    Returns
    -------
    "2 dogs (Rex, Bello)".

    Examples
    --------
    >>> named(["a", "b", "c", "d"], "group"), named(["a"], "sample")
    ('4 groups (a, b, c, ...)', '1 sample (a)')
    """
    more = ", ..." if len(names) > EXAMPLES else ""
    return (
        f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names[:EXAMPLES])}{more})"
    )
