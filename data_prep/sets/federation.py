"""What the prepared directories of a federation agree on, as a file.

The server's describes it, devices follow it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.media.hashed import is_hashed
from data_prep.media.table import OTHER, Table
from data_prep.media.text import described
from data_prep.pipeline.plan import MeanStd, Stream
from data_prep.sets.manifest_kinds import KINDS, Kind, features_of, kind_of
from data_prep.sets.sums import read_sums, restandardise
from fedcmi_flwr.data.schema import (
    DatasetSpec,
    ModalitySpec,
    Recipe,
    check_spec,
    read_recipes,
    read_spec,
)
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.types import Modality

VERSION = 1
"""Of the file."""
BY_MAKER = {kind.maker: name for name, kind in KINDS.items()}
"""A recipe's maker -> the kind of a manifest that it makes."""


@dataclass(frozen=True)
class Federation:
    """Classes, and how each modality is stored and made."""

    path: Path
    """The file, for messages."""
    name: str
    """Of the data set."""
    classes: tuple[str, ...]
    """In index order."""
    modalities: tuple[ModalitySpec, ...]
    """In stored order, with the mean and std that all directories normalise by."""
    recipes: Mapping[Modality, Recipe]

    @property
    def kinds(self) -> dict[Modality, str]:
        """Modality -> its kind as a manifest has it, "vector:age,bmi" included."""
        return {modality.name: self._kind(modality.name) for modality in self.modalities}

    def _kind(self, name: Modality) -> str:
        recipe = self.recipes.get(name, {})
        kind = BY_MAKER.get(recipe.get("maker", ""))
        if kind is None or recipe.get("tweets"):
            raise PrepError(
                f"{self.path}: modality {name!r} is made by {recipe.get('maker')!r}, which a "
                "manifest's are not; prepare the device's data by the command that prepared the "
                "server's."
            )

        return f"{kind}:{','.join(recipe['columns'])}" if recipe.get("columns") else kind

    def choose(self, asked: Mapping[Modality, str], columns: Sequence[str]) -> dict[Modality, str]:
        """Return the modalities to store.

        Those that are asked for, else all that a manifest has columns of.

        Parameters
        ----------
        asked
            Name -> kind, from :func:`data_prep.sets.manifest_kinds.parse_modalities`.
        columns
            Of the manifest.

        Returns
        -------
        Name -> kind, in the federation's order.

        Raises
        ------
        PrepError
            A modality that the federation has not, or has as another kind; or none.
        """
        known = self.kinds
        for name, kind in asked.items():
            if known.get(name) != kind:
                theirs = (
                    repr(known[name]) if name in known else f"no such modality, only {list(known)}"
                )
                raise PrepError(
                    f"modality {name!r}: {kind!r} here, {theirs} in {self.path}; use the "
                    "federation's."
                )

        for name, kind in known.items():
            if name in (asked or known):
                self._check_columns(name, kind, columns)

        there = {
            name: kind
            for name, kind in known.items()
            if {*(features_of(kind) or (name,))} <= {*columns}
        }
        chosen = {name: kind for name, kind in known.items() if name in (asked or there)}
        if not chosen:
            raise PrepError(
                f"the manifest has no column of {list(known)}, the modalities of {self.path}."
            )

        return chosen

    def _check_columns(self, name: Modality, kind: str, columns: Sequence[str]) -> None:
        """Refuse a manifest with some columns of a vector or a table: neither is left out."""
        needed = features_of(kind)
        absent = [column for column in needed if column not in columns]
        if 0 < len(absent) < len(needed):
            raise PrepError(
                f"the manifest lacks column {absent[0]!r} of {kind_of(kind)} {name!r}, {list(needed)} "
                f"in {self.path}; add it, with empty cells where nothing is known, or remove all "
                "of them from a device without the modality."
            )

    def check(
        self,
        classes: Sequence[str] | None,
        sizes: Mapping[str, Any],
        modalities: Mapping[Modality, str],
    ) -> None:
        """Raise PrepError where a request differs from the federation's file.

        Parameters
        ----------
        classes
            Labels in index order; None: not asked for.
        sizes
            Fields of :class:`data_prep.sets.manifest_kinds.Sizes` that are asked for.
        modalities
            From :meth:`choose`.

        Raises
        ------
        PrepError
            A difference; the message has both sides.
        """
        if classes is not None and tuple(classes) != self.classes:
            raise PrepError(
                f"classes {list(classes)} here, {list(self.classes)} in {self.path}; use the "
                "federation's."
            )
        for name, kind in modalities.items():
            recipe = self.recipes[name]
            asked, stream = sizes.get("streams", {}).get(name), recipe.get("stream")
            if asked not in (None, stream):
                raise PrepError(
                    f"stream {asked} of {name!r} here, {stream or 'the default'} in {self.path}."
                )

            for field, entry in KINDS[kind_of(kind)].entries.items():
                if field in sizes and not _is_same(field, sizes[field], recipe.get(entry)):
                    # All of a vocabulary
                    words = field == "tokenizer" and not is_hashed(recipe[entry])
                    theirs = "another one" if words else repr(recipe.get(entry))
                    raise PrepError(
                        f"{field} = {sizes[field]!r} here, {theirs} in {self.path} for {name!r}; "
                        "leave it out."
                    )

            for column, names in sizes.get("categories", {}).items():
                theirs = recipe.get("categories", {}).get(column, [])
                if column in features_of(kind) and not _are_same(names, theirs):
                    raise PrepError(
                        f"categories of {column!r}: {list(names) or 'those of the data'} here, "
                        f"{theirs or 'numbers'} in {self.path} for {name!r}; leave them out."
                    )

    def table(self, name: Modality) -> tuple[Table, MeanStd]:
        """Return what the columns of a table are, and what its features are normalised by.

        Parameters
        ----------
        name
            Of the modality.

        Returns
        -------
        Table, and mean and standard deviation.

        Raises
        ------
        PrepError
            A recipe that is none of a table.
        """
        stored = next(modality for modality in self.modalities if modality.name == name)
        try:
            return Table.of(self.recipes[name]), (stored.mean, stored.std)
        except (KeyError, TypeError, AttributeError) as error:
            raise PrepError(
                f"{self.path}: the recipe of {name!r} is none of a table ({error})."
            ) from error

    def stream(self, name: Modality, files: Sequence[Path]) -> Stream:
        """Return how a modality is made: as the federation's, and normalised as it is.

        Parameters
        ----------
        name
            Of the modality.
        files
            All of its files, where it has some.

        Returns
        -------
        The stream.

        Raises
        ------
        PrepError
            Files of another size than the federation's, or a recipe that makes something else
            than described.
        """
        kind = KINDS[kind_of(self.kinds[name])]
        stored = next(modality for modality in self.modalities if modality.name == name)
        stream = kind.again(name, self.recipes[name])
        if (stream.kind, stream.shape, stream.dtype) != (stored.kind, stored.shape, stored.dtype):
            raise PrepError(
                f"{self.path}: modality {name!r} is {stored.dtype} {list(stored.shape)}, but its "
                f"recipe makes {stream.dtype} {list(stream.shape)}; write the file again, with "
                "`fedcmi prep describe`."
            )

        self._check_first(name, kind, files, stored.shape[0])

        return replace(stream, mean_std=(stored.mean, stored.std))

    def _check_first(
        self, name: Modality, kind: Kind, files: Sequence[Path], expected: int
    ) -> None:
        """Say that all files are of another size where the first one that can be read is."""
        for file in files if kind.measure else ():
            try:
                found = kind.measure(file, self.recipes[name].get("header"))  # type: ignore[misc]  # not None where there are files to look at
            except UnreadableFileError:
                continue

            if found != expected:
                raise PrepError(
                    f"modality {name!r}: {file} has {found} channels or features, {self.path} "
                    f"says {expected}; give files as the server's are."
                )

            return


def _is_same(field: str, here: Any, theirs: Any) -> bool:  # noqa: ANN401 (a size may be anything)
    """Return whether a size is the federation's.

    A tokenizer that is hashed on one side only need not be loaded.
    """
    if field != "tokenizer":
        return bool(here == theirs)
    return is_hashed(here) == is_hashed(theirs) and described(here) == theirs


def _are_same(here: Sequence[str], theirs: Sequence[str]) -> bool:
    """Return whether categories are the federation's, as far as they are named here."""
    if here in ((), (OTHER,)):
        return bool(theirs) and (not here or theirs[-1] == OTHER)
    return list(here) == list(theirs)


def describe(directory: Path, path: Path, sums: Sequence[Path] = ()) -> Federation:
    """Write the file of a federation by the server's prepared directory.

    Parameters
    ----------
    directory
        A prepared directory with recipes.
    path
        The file to write; one that is there is replaced.
    sums
        Files of sums from the nodes; what they have values of is standardised by all of them
        (``sums.py``) instead of by the directory.

    Returns
    -------
    What stands in it.

    Raises
    ------
    FileNotFoundError
        No prepared directory.
    SchemaError
        A directory that contradicts its description.
    PrepError
        A modality that no manifest has, or sums that do not go with the directory.
    """
    spec, recipes = read_spec(directory), read_recipes(directory)
    found = Federation(path, spec.name, spec.classes, spec.modalities, recipes)
    found.kinds  # noqa: B018 (says which modality no manifest has, before anything is written)
    if sums:
        sent = {file: read_sums(file) for file in sums}
        both = [
            restandardise(modality, recipes[modality.name], sent) for modality in spec.modalities
        ]
        again = {modality.name: recipe for modality, recipe in both}
        found = replace(found, modalities=tuple(modality for modality, _ in both), recipes=again)

    content = {
        "federation_version": VERSION,
        "name": found.name,
        "classes": list(found.classes),
        "modalities": [asdict(modality) for modality in found.modalities],
        "recipes": {name: dict(found.recipes[name]) for name in found.kinds},
    }
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")

    return found


def read_federation(path: Path) -> Federation:
    """Read the file that :func:`describe` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    What the directories of the federation agree on.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    PrepError
        It is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, expected what `fedcmi prep describe` wrote on the server."
        )

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["federation_version"] != VERSION:
            raise ValueError(
                f"version {content['federation_version']!r}, this release reads {VERSION}"
            )

        modalities = tuple(ModalitySpec.from_fields(fields) for fields in content["modalities"])
        name, classes = content["name"], tuple(content["classes"])
        strange = [
            f"class {number} is {each!r}"
            for number, each in enumerate(classes)
            if not isinstance(each, str)
        ]
        if strange:
            raise ValueError(f"{strange[0]}; names are text")

        found = Federation(path, name, classes, modalities, content["recipes"])
        check_spec(path, DatasetSpec(name, "classification", classes, modalities, {}, {}, {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepError(
            f"{path}: not the description of a federation ({error}); write it again."
        ) from error

    return found
