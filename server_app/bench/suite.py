"""A suite: several data sets, each in several mixes of skew and ownership, for one table over all
of them.

It is a TOML file. ``rows``, ``baseline`` and ``num-nodes`` hold unless ``fedcmi bench --suite``
is told otherwise. ``[mixes]`` gives names to run-config keys; ``[sets]`` names a recipe for each
set, relative to the file, and where its data is: ``data``, a built-in set, or else
``DIR/<set>``, prepared already or to be made of ``DIR/<npz>.npz`` with ``label``. A setting is a
set in a mix: "mfeat-half".
"""

import fnmatch
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.builtin import BUILT_IN
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.types import Scalar
from server_app.bench.configs import (
    choose_baseline,
    find_rows,
    find_settings,
    setting_values,
    values_by_setting,
)
from server_app.launch.progress import Show
from server_app.launch.recipes import RECIPES

SUITES = RECIPES / "suites"
NUM_NODES = 10
"""Of a bench of settings by themselves."""
KEYS = ("num-nodes", "rows", "baseline", "mixes", "sets")
SET_KEYS = ("recipe", "data", "npz", "label")


@dataclass(frozen=True)
class SuiteSet:
    """One data set of a suite."""

    name: str
    recipe: Path
    """Run-config keys of all its settings."""
    data: str
    """A built-in data set; empty: looked for where the user says."""
    npz: str
    """File name without ending."""
    label: str
    """Array of the NPZ file with the classes."""


@dataclass(frozen=True)
class Suite:
    """What a suite's file says."""

    name: str
    rows: Sequence[str]
    """As :func:`server_app.bench.configs.find_rows` takes them."""
    baseline: str | None
    num_nodes: int
    mixes: Mapping[str, Mapping[str, Scalar]]
    sets: Mapping[str, SuiteSet]

    @property
    def settings(self) -> dict[str, tuple[str, str]]:
        """Every setting's name -> its set and its mix, set by set."""
        return {f"{name}-{mix}": (name, mix) for name in self.sets for mix in self.mixes}

    def choose(self, patterns: Sequence[str]) -> list[str]:
        """Return the settings that any of some names or patterns ("*-half") means, all of them
        without any.

        Parameters
        ----------
        patterns
            Names of settings, with "*" for anything.

        Returns
        -------
        Names in the suite's order.

        Raises
        ------
        ConfigError
            A pattern that means none.
        """
        for pattern in patterns:
            if not fnmatch.filter(self.settings, pattern):
                raise ConfigError(
                    f"setting {pattern!r}: none of the suite {self.name}, "
                    f"{', '.join(self.settings)}."
                )

        wanted = patterns or ["*"]
        return [
            name
            for name in self.settings
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        ]

    def values(
        self, settings: Sequence[str], data: Mapping[str, str]
    ) -> dict[str, dict[str, Scalar]]:
        """Return the run-config keys of settings: the set's recipe, then the mix, then its data.

        Parameters
        ----------
        settings
            From :meth:`choose`.
        data
            Set -> its prepared directory or built-in name, from :func:`locate_sets`.

        Returns
        -------
        Setting -> keys and values.
        """
        found = {}
        for setting in settings:
            name, mix = self.settings[setting]
            found[setting] = {
                **setting_values(self.sets[name].recipe),
                **self.mixes[mix],
                "data": data[name],
            }

        return found


def read_suite(name: str) -> Suite:
    """Read a suite.

    Parameters
    ----------
    name
        Of a file in ``server_app/recipes/suites``, or the path of a TOML file.

    Returns
    -------
    The suite.

    Raises
    ------
    ConfigError
        No such suite, not TOML, an unknown or missing key, or a set without recipe.
    """
    known = {path.stem: path for path in sorted(SUITES.glob("*.toml"))}
    path = known.get(name) or Path(name).absolute()
    if not path.is_file():
        raise ConfigError(f"suite {name!r}: neither a file nor one of {', '.join(known)}.")

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"suite {path}: {error}.") from error

    _check_keys(f"suite {path}", content, KEYS, ("num-nodes", "rows", "mixes", "sets"))
    for part in ("mixes", "sets"):
        if not isinstance(content[part], dict) or not content[part]:
            raise ConfigError(
                f"suite {path}: {part!r} must be a table with one entry or more, [{part}]."
            )

    sets = {each: _read_set(path, each, content["sets"][each]) for each in content["sets"]}
    rows, baseline = content["rows"], content.get("baseline")

    return Suite(path.stem, rows, baseline, content["num-nodes"], content["mixes"], sets)


def _check_keys(
    where: str, content: Mapping[str, Any], known: Sequence[str], needed: Sequence[str]
) -> None:
    unknown = [key for key in content if key not in known]
    missing = [key for key in needed if key not in content]
    if unknown or missing:
        found = f"unknown key {unknown[0]!r}" if unknown else f"key {missing[0]!r} is missing"
        raise ConfigError(f"{where}: {found}; there may be {', '.join(known)}.")


def _read_set(path: Path, name: str, content: Mapping[str, Any]) -> SuiteSet:
    where = f"suite {path}, set {name!r}"
    _check_keys(where, content, SET_KEYS, ("recipe",))
    recipe = (path.parent / content["recipe"]).resolve()
    if not recipe.is_file():
        raise ConfigError(f"{where}: its recipe {recipe} is not there.")

    data = content.get("data", "")
    if data and data not in BUILT_IN:
        raise ConfigError(
            f"{where}: data = {data!r} is no built-in set ({', '.join(BUILT_IN)}); leave it to "
            "--data-root."
        )

    return SuiteSet(name, recipe, data, content.get("npz", name), content.get("label", "y"))


def locate_sets(
    suite: Suite, names: Sequence[str], root: Path | None, show: Show
) -> dict[str, str]:
    """Return where the data of sets is.

    What is not prepared yet is made of its NPZ file, in the cache directory.

    Parameters
    ----------
    suite
        The suite.
    names
        Of its sets.
    root
        The directory with a prepared directory, or an NPZ file, for each set that is not built in.
    show
        Called with a line for each set that is prepared.

    Returns
    -------
    Set -> a built-in name or the absolute path of a prepared directory.

    Raises
    ------
    ConfigError
        Sets whose data is neither built in nor below ``root``; nothing is prepared then.
    """
    found, to_make, lost = dict[str, str](), dict[str, Path](), list[str]()
    for name in names:
        each = suite.sets[name]
        prepared, npz = (root / name, root / f"{each.npz}.npz") if root else (None, None)
        if each.data:
            found[name] = each.data
        elif prepared and (prepared / "dataset.json").is_file():
            found[name] = str(prepared.absolute())
        elif npz and npz.is_file():
            to_make[name] = npz
        else:
            lost.append(name)

    if lost:
        raise ConfigError(
            f"suite {suite.name}: no data of {', '.join(lost)} in {root or 'no --data-root'}; "
            "give --data-root DIR with DIR/<set>, prepared, or DIR/<set>.npz, or name settings "
            "of other sets."
        )

    for name, npz in to_make.items():
        found[name] = str(_prepared(npz, suite.sets[name], show))

    return found


def _prepared(npz: Path, of: SuiteSet, show: Show) -> Path:
    """Prepare an NPZ file unless the cache has what was made of the same bytes."""
    from data_prep.sets.npz import prepare

    digest = hashlib.sha256(npz.read_bytes() + of.label.encode()).hexdigest()
    out = cache_directory() / "npz" / f"{of.name}-{digest[:12]}"
    if not (out / "dataset.json").is_file():
        show(f"preparing {out} from {npz}")

    return prepare(npz, out, label=of.label)


@dataclass(frozen=True)
class Chosen:
    """What a bench is to run: settings by themselves, or those of a suite."""

    values: Mapping[str, Mapping[str, Scalar]]
    """Setting -> run-config keys."""
    rows: Sequence[Path]
    baseline: str
    num_nodes: int
    sets: Mapping[str, str]
    """Setting -> set, of a suite; empty without one."""


def choose_settings(
    names: Sequence[str], rows: str | None, baseline: str | None, num_nodes: int | None
) -> Chosen:
    """Return what a bench of settings runs; ConfigError where none is named.

    Parameters
    ----------
    names
        As for :func:`server_app.bench.configs.find_settings`.
    rows
        As for :func:`server_app.bench.configs.find_rows`, joined by commas; None: all methods.
    baseline
        As for :func:`server_app.bench.configs.choose_baseline`.
    num_nodes
        Simulated nodes; None: 10.

    Returns
    -------
    What to run.
    """
    if not names:
        raise ConfigError("no setting: name one or more, or a --suite.")

    values = values_by_setting(find_settings(names))
    found = find_rows((rows or "methods").split(","))

    return Chosen(values, found, choose_baseline(baseline, found), num_nodes or NUM_NODES, {})


def choose_suite(
    suite: Suite,
    patterns: Sequence[str],
    rows: str | None,
    baseline: str | None,
    num_nodes: int | None,
    root: Path | None,
    show: Show,
) -> Chosen:
    """Return what a bench of a suite runs; what is not asked for is as the suite says.

    Parameters
    ----------
    suite
        The suite.
    patterns
        As for :meth:`Suite.choose`.
    rows
        As for :func:`choose_settings`.
    baseline
        As for :func:`choose_settings`.
    num_nodes
        Simulated nodes.
    root
        As for :func:`locate_sets`.
    show
        As for :func:`locate_sets`.

    Returns
    -------
    What to run.
    """
    settings = suite.choose(patterns)
    found = find_rows(rows.split(",") if rows else suite.rows)
    known = [path.stem for path in found]
    chosen = choose_baseline(
        baseline or (suite.baseline if suite.baseline in known else None), found
    )
    sets = {setting: suite.settings[setting][0] for setting in settings}
    data = locate_sets(suite, list(dict.fromkeys(sets.values())), root, show)

    return Chosen(suite.values(settings, data), found, chosen, num_nodes or suite.num_nodes, sets)
