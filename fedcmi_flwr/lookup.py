"""From a name in a run-config to what it stands for.

Built in, offered by an installed package, or an import path.

    find(METHOD, "fedprox")                          built in
    find(METHOD, "my-method")                        an entry point of an installed package, in group fedcmi.methods
    find(METHOD, "my_package.my_module:MyMethod")    an import path

A built-in name always means what is built in, whatever else is installed: "fedavg" in a recipe
or a table of results must be the same on every machine, and an unrelated package must not be
able to break a run. What a package offers under such a name is still there by its import path.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import (
    EntryPoint,
    PackageNotFoundError,
    entry_points,
    packages_distributions,
    version,
)
from typing import Any, Generic, TypeVar

from fedcmi_flwr.suggestions import did_you_mean

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""package.module:Name"""

Found = TypeVar("Found")


class UnknownNameError(ValueError):
    """A name that stands for nothing of its kind; the text says what was found and what to do."""


class MissingPackageError(UnknownNameError):
    """A name whose package is not installed on this machine."""


@dataclass(frozen=True)
class Kind(Generic[Found]):
    """One kind of thing that users may bring along."""

    key: str
    """The key that names one: "method"."""
    group: str
    """Entry points of installed packages that offer more: "fedcmi.methods"."""
    built_in: Mapping[str, Found]
    accept: Callable[[Any], Found]
    """From what a package gives to what is used; TypeError, with what is needed, for anything
    else."""

    @property
    def names(self) -> list[str]:
        """All names that stand for one here, without import paths."""
        return sorted({*self.built_in, *entry_points(group=self.group).names})


def find(kind: Kind[Found], name: str) -> Found:
    """Return what a name stands for.

    Parameters
    ----------
    kind
        What it must be.
    name
        A built-in name, that of an entry point, or "package.module:Name".

    Returns
    -------
    As the kind's ``accept`` gives it.

    Raises
    ------
    UnknownNameError
        There is nothing of that name, two packages offer one, or it is something else.
    MissingPackageError
        Its package is not installed here.
    """
    if name in kind.built_in:
        return kind.built_in[name]

    path = import_path(kind, name)
    found = _load(f"{kind.key} = {name!r}", path)
    try:
        return kind.accept(found)
    except TypeError as error:
        raise UnknownNameError(
            f"{kind.key} = {name!r}: {path} is {_described(found)}; {error}"
        ) from error


def import_path(kind: Kind[Any], name: str) -> str:
    """Return "package.module:Name" of something that is not built in.

    The errors are those of :func:`find`.
    """
    if IMPORT_PATH.fullmatch(name):
        return name

    offers: dict[str, EntryPoint] = {
        offer.value: offer for offer in entry_points(group=kind.group, name=name)
    }
    if not offers:
        raise UnknownNameError(
            f"{kind.key} = {name!r}: not one of {kind.names}, nor an import path "
            f"(package.module:Name).{did_you_mean(name, kind.names)}"
        )
    if len(offers) > 1:
        raise UnknownNameError(
            f"{kind.key} = {name!r}: more than one installed package offers it; name one of "
            f"{sorted(offers)}."
        )

    offer = next(iter(offers.values()))

    return f"{offer.module}:{offer.attr}"


def package_of(kind: Kind[Any], name: str) -> str:
    """Return the package that something comes from, "my-package 0.1.0"; empty for what is built in.

    Parameters
    ----------
    kind
        What it is.
    name
        One that :func:`find` finds.

    Returns
    -------
    Name and version as pip knows them; the name of the top module where pip knows of none.
    """
    return (
        ""
        if name in kind.built_in
        else _package_with(import_path(kind, name).partition(".")[0].partition(":")[0])
    )


def file_name(name: str) -> str:
    """Return a name as part of a path.

    An import path has a colon, which separates paths elsewhere.
    """
    return name.replace(":", "-")


@cache
def _package_with(module: str) -> str:
    names = packages_distributions().get(module, [module])
    try:
        return f"{names[0]} {version(names[0])}"
    except PackageNotFoundError:
        return module


def _load(where: str, path: str) -> Any:  # noqa: ANN401
    """Import what a path names."""
    module, _, attributes = path.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise UnknownNameError(
                f"{where}: importing {module} failed, it needs {error.name!r}: {error}."
            ) from error
        raise MissingPackageError(
            f"{where}: there is no module {error.name!r} here. Install its package (pip install) "
            "in the Python environment of the server and of every node, and look at the spelling."
        ) from error
    except Exception as error:  # a module of somebody else may raise anything
        raise UnknownNameError(
            f"{where}: importing {module} failed, {type(error).__name__}: {error}"
        ) from error

    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise UnknownNameError(
                f"{where}: {module} has no "
                f"{attributes!r}.{did_you_mean(attribute, (n for n in dir(found)))}"
            )
        found = getattr(found, attribute)

    return found


def _described(found: object) -> str:
    if isinstance(found, type):
        return f"the class {found.__qualname__}"
    return f"an object of the class {type(found).__qualname__}"
