"""What to install when an optional package is missing: the extras of ``pyproject.toml``."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec


class MissingExtraError(ModuleNotFoundError):
    """A package of an extra is not installed.

    The text says which, and the command that installs it.
    """

    def __init__(self, module: str | None, extra: str) -> None:
        package = (module or "").partition(".")[0]
        super().__init__(
            f"the package {package} is needed and not installed; pip install "
            f"'fedcmi-flwr[{extra}]'.",
            name=package,
        )


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say of packages that are imported within which extra they come with.

    Parameters
    ----------
    extra
        Name in ``[project.optional-dependencies]``.

    Yields
    ------
    Nothing.

    Raises
    ------
    MissingExtraError
        One of the packages is not installed; an error that names its extra already is left as it
        is.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name, extra) from error


def require(extra: str, *packages: str) -> None:
    """Raise MissingExtraError where a package is not installed, before the work whose end needs it.

    Imports nothing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)
