"""Recipes by name: TOML files with run-config keys, from wherever a command is called."""

from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.suggestions import did_you_mean

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""Settings are the files in it, rows of benches those in its directories."""
NO_RECIPES = ("suites", "tuned")
"""Directories of other TOML files."""


def find_recipe(name: str) -> Path:
    """Return a recipe, given by the path of a TOML file or by its name below
    ``server_app/recipes``.

    Parameters
    ----------
    name
        "mine.toml"; or "cremad", "methods/fedcmi". A file that is there is taken before a name.

    Returns
    -------
    The path of a file.

    Raises
    ------
    ConfigError
        Neither a file nor a known name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path

    known = {
        str(file.relative_to(RECIPES).with_suffix("")): file
        for file in sorted(RECIPES.rglob("*.toml"))
    }
    known = {each: file for each, file in known.items() if not each.startswith(NO_RECIPES)}
    if name not in known:
        settings = ", ".join(each for each in known if "/" not in each)
        raise ConfigError(
            f"recipe {name!r}: neither a file nor one of {settings}.{did_you_mean(name, known)}"
        )

    return known[name]
