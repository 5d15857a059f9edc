"""From the names of settings and rows to the run-config of each run of a bench."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Scalar
from server_app.launch.recipes import RECIPES
from server_app.launch.start import check_modalities, combine, read_recipe

ROW_DIRECTORIES = ("methods", "alone", "ablations")
BASELINE = "fedavg"
"""The row that others are compared with, unless told otherwise."""
DECIDED = ("seed", "run-dir")
"""Keys that a bench decides for each run."""

RunConfigs = Mapping[str, Mapping[str, Mapping[str, Scalar]]]
"""Setting -> row -> run-config without the keys that a bench decides."""


def find_settings(names: Sequence[str]) -> list[Path]:
    """Return the recipes of settings, each given by the name of one in ``server_app/recipes`` or by
    a path.

    Parameters
    ----------
    names
        "avmnist", or the path of a TOML file.

    Returns
    -------
    Absolute paths.

    Raises
    ------
    ConfigError
        Neither a known name nor a file, or two of one name.
    """
    known = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    found = [known[name] if name in known else _own_file("setting", name, known) for name in names]
    return _all_different("settings", found)


def find_rows(names: Sequence[str]) -> list[Path]:
    """Return the recipes of a table's rows.

    Parameters
    ----------
    names
        Each a directory below ``server_app/recipes`` ("methods": all rows in it, by name), the
        name of a row in one of these directories ("fedprox"), or the path of a TOML file.

    Returns
    -------
    Absolute paths, in the order of the names.

    Raises
    ------
    ConfigError
        A name that is none of these, or two rows of one name.
    """
    groups = {name: sorted((RECIPES / name).glob("*.toml"), key=_stem) for name in ROW_DIRECTORIES}
    known = {path.stem: [path] for paths in groups.values() for path in paths} | groups
    found = [
        path for name in names for path in (known.get(name) or [_own_file("row", name, known)])
    ]

    return _all_different("rows", found)


def _stem(path: Path) -> str:
    return path.stem


def _own_file(what: str, name: str, known: Mapping[str, object]) -> Path:
    path = Path(name).absolute()
    if not path.is_file():
        raise ConfigError(
            f"{what} {name!r}: neither a file nor one of "
            f"{', '.join(known)}.{did_you_mean(name, known)}"
        )

    return path


def _all_different(what: str, paths: list[Path]) -> list[Path]:
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{what}: {twice[0]!r} is there twice; name each once, and give files different names."
        )

    return paths


def choose_baseline(name: str | None, rows: Sequence[Path]) -> str:
    """Return the row that others are compared with.

    The one asked for, else BASELINE, else the first.

    Parameters
    ----------
    name
        A row's name, or None.
    rows
        From :func:`find_rows`.

    Returns
    -------
    A row's name.

    Raises
    ------
    ConfigError
        The row asked for is not among them.
    """
    names = [path.stem for path in rows]
    if name is None:
        return BASELINE if BASELINE in names else names[0]
    if name not in names:
        raise ConfigError(
            f"--baseline {name!r}: not one of the rows, "
            f"{', '.join(names)}.{did_you_mean(name, names)}"
        )

    return name


def read_tuned(path: Path) -> dict[str, dict[str, Scalar]]:
    """Return the tables of a ``tuned.toml``: row -> run-config keys and values."""
    try:
        tables: dict[str, dict[str, Scalar]] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"tuned values {path}: {error}.") from error

    for row, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"tuned values {path}: {row!r} must be a table of run-config keys, [{row}]."
            )
        _leave_to_the_bench(f"tuned values {path}, [{row}]", values, (*DECIDED, "method"))

    return tables


def setting_values(recipe: Path) -> dict[str, Scalar]:
    """Return the keys of a setting's recipe, which leaves to the bench what a bench decides."""
    return _overrides(recipe, (*DECIDED, "method"))


def values_by_setting(recipes: Sequence[Path]) -> dict[str, dict[str, Scalar]]:
    """Return the keys of several settings, each by its recipe's name."""
    return {recipe.stem: setting_values(recipe) for recipe in recipes}


def bench_configs(
    settings: Mapping[str, Mapping[str, Scalar]],
    rows: Sequence[Path],
    tuned: Mapping[str, Mapping[str, Scalar]],
    options: Mapping[str, Scalar | None],
    assignments: Sequence[str],
) -> RunConfigs:
    """Put the run-configs of a bench together.

    Defaults, then setting, row, tuned values, options and assignments.

    Parameters
    ----------
    settings
        Name -> values, of each setting; see :func:`values_by_setting`.
    rows
        From :func:`find_rows`; each names its method.
    tuned
        Row -> values that were tuned for it.
    options
        As for :func:`server_app.launch.start.combine`.
    assignments
        As for :func:`server_app.launch.start.combine`.

    Returns
    -------
    A checked run-config for each setting and row.

    Raises
    ------
    ConfigError
        As for :func:`server_app.launch.start.combine`, a row without a method, or a key that a
        bench decides.
    """
    keys = [text.partition("=")[0].strip() for text in assignments]
    _leave_to_the_bench("--set", keys, (*DECIDED, "method"))
    overrides = {path: _overrides(path, DECIDED) for path in rows}
    for path in rows:
        if "method" not in overrides[path]:
            raise ConfigError(f'row {path}: must say its method, such as method = "fedavg".')

    configs: dict[str, dict[str, Mapping[str, Scalar]]] = {}
    for setting, base in settings.items():
        of_rows = configs[setting] = {}
        for row in rows:
            raw = combine([base, overrides[row], tuned.get(row.stem, {})], options, assignments)
            of_rows[row.stem] = {key: value for key, value in raw.items() if key not in DECIDED}

    return configs


def check_data(configs: RunConfigs) -> None:
    """Check what every run says of modalities against its data, before anything is written.

    Parameters
    ----------
    configs
        From :func:`bench_configs`.

    Raises
    ------
    ConfigError
        As for :func:`server_app.launch.start.check_modalities`.
    DataError
        The data are not there.
    """
    decided: dict[str, Scalar] = {"seed": 0, "run-dir": ""}
    for rows in configs.values():
        for raw in rows.values():
            check_modalities(read_run_config({**raw, **decided}))


def _overrides(path: Path, decided: Sequence[str]) -> dict[str, Scalar]:
    values = read_recipe(path)
    _leave_to_the_bench(f"recipe {path}", values, decided)
    return values


def _leave_to_the_bench(
    where: str, keys: Sequence[str] | Mapping[str, Scalar], decided: Sequence[str]
) -> None:
    for key in keys:
        if key in decided:
            raise ConfigError(
                f"{where}: {key!r} must not stand here; a bench decides {', '.join(decided)} "
                "itself, see --methods and --seeds."
            )
