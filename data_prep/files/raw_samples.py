"""From files as a user gives them to samples as a model takes them.

Which file is which modality, of which sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.files.makers import MEDIA, Source, make_sample, maker_of
from fedcmi_flwr.data.schema import ModalitySpec, Recipe
from fedcmi_flwr.inference.predictions import Chunk
from fedcmi_flwr.types import Modality

CHUNK = 8
"""Samples that are in memory at a time; few, so that the first predictions do not wait for many
files."""
Recipes = Mapping[Modality, Recipe]
Unreadable = dict[Path, str]
"""File that cannot be read -> what is wrong with it, and what to do."""


@dataclass(frozen=True)
class RawSample:
    """One sample, as files."""

    sources: Mapping[Modality, Source]
    """Of the modalities that it has."""

    @property
    def name(self) -> str:
        """Its files, each once."""
        return " + ".join(dict.fromkeys(str(source.path) for source in self.sources.values()))


@dataclass(frozen=True)
class Matched:
    """What files turned out to be."""

    samples: Sequence[RawSample]
    """In the order of their first files."""
    skipped: Sequence[Path] = ()
    """Files of directories that no recipe takes, by their endings."""


class _TakenError(PrepError):
    """Two files for one modality of one sample."""


def match(arguments: Sequence[str], recipes: Recipes) -> Matched:
    """Tell which modality of which sample each file is.

    The kind of a file says its modality; a video is frames, and sound too where nothing else is.
    What is made of another modality's files takes those. "NAME=FILE" and "NAME=DIRECTORY" say
    what the kind does not. Files are one sample as long as there is one for each modality at
    most. More files, and those of directories and what is below them, are one sample for each
    name without ending, whatever folder they are in: ``photos/a.jpg`` and ``motion/a.csv``
    belong together. Where a name comes again, those of one folder do. Files of directories that
    no recipe takes are skipped.

    Parameters
    ----------
    arguments
        Files, "FILE#START-ENDs" for a part of a video in seconds, "NAME=FILE", or directories.
    recipes
        Of the modalities that are wanted.

    Returns
    -------
    The samples, and what was skipped.

    Raises
    ------
    FileNotFoundError
        A file or directory that is not there.
    PrepError
        A file that is given and is none of the modalities, a file that may be several, a second
        one for the same, or a directory without any that is taken.
    """
    given = _read(arguments, recipes)
    for source in [*given.named.values(), *given.plain]:
        if not source.path.is_file():
            raise FileNotFoundError(f"{source.path}: no such file or directory.")

    if not given.many:
        try:
            return Matched([RawSample(_assign(given.plain, recipes, given.named))])
        except _TakenError:
            if given.named:
                raise

    by_name: dict[str, list[Source]] = {}
    for source in given.plain:
        by_name.setdefault(source.path.stem, []).append(source)

    samples = [
        each for sources in by_name.values() for each in _of_one_name(sources, recipes, given.said)
    ]

    return Matched(samples, given.skipped)


def _of_one_name(
    sources: Sequence[Source], recipes: Recipes, said: Mapping[Source, Modality]
) -> Iterator[RawSample]:
    """Yield the samples of files that have the same name: one, or one for each folder."""
    try:
        yield RawSample(_assign(sources, recipes, {}, said))
        return
    except _TakenError:
        folders: dict[Path, list[Source]] = {}
        for source in sources:
            folders.setdefault(source.path.parent, []).append(source)

        parts = [_assign(files, recipes, {}, said) for files in folders.values()]
        owned = {name for part in parts for name in part}
        if len(folders) < 2 or (len(owned) > 1 and all(len(part) == 1 for part in parts)):
            raise  # which of them belong together, nothing says

    yield from map(RawSample, parts)


@dataclass
class _Given:
    """Arguments, read."""

    named: dict[Modality, Source] = field(default_factory=dict)
    """Single files that were given with their modality."""
    plain: list[Source] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    said: dict[Source, Modality] = field(default_factory=dict)
    """Files of directories that were given with their modality."""
    many: bool = False
    """Whether any argument is a directory."""


def _read(arguments: Sequence[str], recipes: Recipes) -> _Given:
    given = _Given()
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if equals and name in given.named:
            raise PrepError(
                f"{argument}: {name!r} is {given.named[name].path} already; give one file for it."
            )

        if equals and name in recipes and Path(file).is_dir():
            taken, others = _files(Path(file), {name: recipes[name]})
            given.said |= dict.fromkeys(taken, name)
            given.plain += taken
            given.skipped += others
            given.many = True
        elif equals and name in recipes:
            given.named[name] = _fitting(name, Source.parse(file), recipes)
        elif equals and not Path(argument).exists():
            raise PrepError(
                f"{argument}: there is no modality {name!r} to predict from, only {list(recipes)}."
            )
        elif Path(argument).is_dir():
            taken, others = _files(Path(argument), recipes)
            given.plain += taken
            given.skipped += others
            given.many = True
        else:
            given.plain.append(Source.parse(argument))

    if given.named and given.many:
        raise PrepError("NAME=FILE is one sample, a directory is many: give one or the other.")

    return given


def _fitting(modality: Modality, source: Source, recipes: Recipes) -> Source:
    """Return a file that is given by name.

    PrepError if its ending says that it is something else.
    """
    media = maker_of(modality, recipes[modality]).media
    if source.medium is not None and source.medium not in media:
        raise PrepError(
            f"{modality}={source.path}: is no {' or '.join(media)} file but {source.medium}, by "
            f"its ending; give one that {modality!r} is made of."
        )

    return source


def _files(directory: Path, recipes: Recipes) -> tuple[list[Source], list[Path]]:
    """Return the files of a directory, and of those below it, that a recipe takes.

    And the others.
    """
    below = (path for path in directory.rglob("*") if path.is_file())
    found = sorted(
        path
        for path in below
        if not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    media = {medium for name, recipe in recipes.items() for medium in maker_of(name, recipe).media}
    taken = [source for source in map(Source, found) if source.medium in media]
    if not taken:
        endings = " ".join(ending for medium in sorted(media) for ending in MEDIA[medium])
        raise PrepError(
            f"{directory}: holds no file to predict from, of {len(found)}; need one of {endings}."
        )

    return taken, [path for path in found if Source(path).medium not in media]


def _assign(
    sources: Sequence[Source],
    recipes: Recipes,
    named: Mapping[Modality, Source],
    said: Mapping[Source, Modality] | None = None,
) -> dict[Modality, Source]:
    """Return the source of each modality of one sample, in the order of the recipes."""
    found = dict(named)
    shared = {name: recipe["of"] for name, recipe in recipes.items() if recipe.get("of") in recipes}
    own = {name: recipe for name, recipe in recipes.items() if name not in shared}
    for source in sources:
        name = (said or {}).get(source) or _modality_of(source, own)
        if name in found:
            raise _TakenError(
                f"{source.path} and {found[name].path} are both {name!r} of one sample; leave one "
                "of them out, or give the files of each sample a name of its own before the "
                "ending."
            )

        found[name] = source

    for source in sources:
        _add_sound(source, own, found)

    for name, origin in shared.items():
        if name not in found and origin in found:
            found[name] = found[origin]

    return {name: found[name] for name in recipes if name in found}


def _modality_of(source: Source, recipes: Recipes) -> Modality:
    """Return what a file is: what is usually made of its kind, else what can be."""
    makers = {name: maker_of(name, recipe) for name, recipe in recipes.items()}
    usual = [name for name, maker in makers.items() if maker.media[0] == source.medium]
    fitting = usual or [name for name, maker in makers.items() if source.medium in maker.media]
    wanted = ", ".join(f"{name!r} ({' or '.join(maker.media)})" for name, maker in makers.items())
    if source.medium is None:
        raise PrepError(
            f"{source.path}: neither its ending nor its content says what it is, and the model is "
            f"asked for {wanted}; give NAME={source.path} with its modality."
        )
    if not fitting:
        raise PrepError(
            f"{source.path}: is {source.medium}, and the model is asked for {wanted}; leave it out."
        )

    if len(fitting) > 1:
        choices = " or ".join(f"{name}={source.path}" for name in fitting)
        raise PrepError(
            f"{source.path}: may be one of {fitting}; give {choices}, or ask for one of them as "
            "--modalities."
        )

    return fitting[0]


def _add_sound(source: Source, recipes: Recipes, found: dict[Modality, Source]) -> None:
    """Let a video that is seen be heard too, where the sample has no sound of its own and the video
    has.
    """
    makers = {name: maker_of(name, recipe) for name, recipe in recipes.items() if name not in found}
    fitting = [name for name, maker in makers.items() if source.medium in maker.media[1:]]
    if len(fitting) == 1 and _has_sound(source):
        found[fitting[0]] = source


def _has_sound(source: Source) -> bool:
    from data_prep.media.soundtrack import has_sound

    try:
        return has_sound(source.path)
    except UnreadableFileError:  # found again, and told, where it is to be seen
        return False


def chunks(
    samples: Sequence[RawSample],
    inputs: Sequence[ModalitySpec],
    recipes: Recipes,
    unreadable: Unreadable,
) -> Iterator[Chunk]:
    """Decode samples, some at a time.

    A sample of which some files cannot be read is made of the others.

    Parameters
    ----------
    samples
        From :func:`match`.
    inputs
        The model's modalities.
    recipes
        How each is made.
    unreadable
        Gets the files that cannot be read.

    Yields
    ------
    Stored values of the modalities that the samples have; no chunk without samples.
    """
    shapes = {modality.name: modality for modality in inputs}
    for start in range(0, len(samples), CHUNK):
        decoded = [
            (each.name, _decode(each, shapes, recipes, unreadable))
            for each in samples[start : start + CHUNK]
        ]
        part = [(name, values) for name, values in decoded if values]
        used = [
            modality for modality in inputs if any(modality.name in values for _, values in part)
        ]
        arrays = {m.name: np.zeros((len(part), *m.shape), m.dtype) for m in used}
        present = {m.name: np.array([m.name in values for _, values in part]) for m in used}

        for row, (_, values) in enumerate(part):
            for name, value in values.items():
                arrays[name][row] = value

        if part:
            yield Chunk([name for name, _ in part], arrays, present)


def _decode(
    sample: RawSample,
    inputs: Mapping[Modality, ModalitySpec],
    recipes: Recipes,
    unreadable: Unreadable,
) -> dict[Modality, NDArray[Any]]:
    """Return the stored values of what can be read of a sample."""
    values = {}
    for name, source in sample.sources.items():
        try:
            values[name] = make_sample(source, inputs[name], recipes[name])
        except UnreadableFileError as error:
            unreadable[source.path] = error.reason
        except OSError as error:
            unreadable[source.path] = (
                f"cannot be read ({error.strerror or error}); look at the file."
            )

    return values
