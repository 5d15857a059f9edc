"""Parameter groups.

One for each modality and one that all nodes share, told apart by the parameters' names.
"""

from collections.abc import Mapping, Sequence

from fedcmi_flwr.types import SHARED, Modality


def checked_groups(groups: Mapping[str, Sequence[str]]) -> dict[Modality, tuple[str, ...]]:
    """Return modality -> prefixes.

    ValueError where there is no modality, or one has the shared group's name.
    """
    if not groups or SHARED in groups:
        raise ValueError(
            f"groups = {dict(groups)!r}: name the parameter prefixes of at least one modality, "
            f"none called {SHARED!r}; what no prefix matches is shared."
        )
    return {name: tuple(prefixes) for name, prefixes in groups.items()}


def group_names(
    names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Sort parameter names into groups by prefix; what no prefix matches is shared.

    Parameters
    ----------
    names
        All names of the model's state_dict.
    groups
        Group -> prefixes.

    Returns
    -------
    Group -> names in the given order, "shared" last where there is any.

    Raises
    ------
    ValueError
        A name that the prefixes of two groups match, or a group without any parameter.

    Examples
    --------
    >>> group_names(("ear.w", "eye.w", "head.w"), {"audio": ["ear."], "visual": ["eye."]})
    {'audio': ('ear.w',), 'visual': ('eye.w',), 'shared': ('head.w',)}
    """
    found: dict[str, list[str]] = {group: [] for group in (*groups, SHARED)}
    for name in names:
        matching = [group for group, prefixes in groups.items() if name.startswith(tuple(prefixes))]
        if len(matching) > 1:
            raise ValueError(
                f"parameter {name!r} belongs to the groups {matching}; make their prefixes "
                "distinct."
            )

        found[matching[0] if matching else SHARED].append(name)

    empty = [group for group in groups if not found[group]]
    if empty:
        raise ValueError(
            f"group {empty[0]!r}: no parameter starts with {list(groups[empty[0]])}; names: "
            f"{names[:5]}..."
        )

    return {group: tuple(members) for group, members in found.items() if members}


def groups_for(
    modalities: Sequence[Modality], names: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Return the groups, of those in ``names``, that a node with these modalities can use."""
    return tuple(group for group in (*modalities, SHARED) if group in names)
