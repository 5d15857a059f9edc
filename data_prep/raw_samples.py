"""From files as a user gives them to samples as a model takes them: which file is which modality, of which sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.recipes import Source, make_sample, maker_of
from fedcmi_flwr.predictions import Chunk
from fedcmi_flwr.schema import ModalitySpec, Recipe
from fedcmi_flwr.types import Modality

CHUNK = 64
"""Samples that are in memory at a time."""
Recipes = Mapping[Modality, Recipe]


@dataclass(frozen=True)
class RawSample:
    """One sample, as files."""

    sources: Mapping[Modality, Source]
    """Of the modalities that it has."""

    @property
    def name(self) -> str:
        """Its files, each once."""
        return " + ".join(dict.fromkeys(str(source.path) for source in self.sources.values()))


class _TakenError(PrepError):
    """Two files for one modality of one sample."""


def match(arguments: Sequence[str], recipes: Recipes) -> list[RawSample]:
    """Tell which modality of which sample each file is.

    The kind of a file says its modality; a video is frames, and sound too where nothing else is. What is made of
    another modality's files takes those. "NAME=FILE" says what the kind does not. Files are one sample as long as there
    is one for each modality at most. More files, and those of directories, are one sample for each name without ending:
    ``a.wav`` and ``a.jpg`` belong together.

    Parameters
    ----------
    arguments
        Files, "FILE#START-ENDs" for a part of a video in seconds, "NAME=FILE", or directories.
    recipes
        Of the modalities that are wanted.

    Returns
    -------
    Samples in the order of their first files.

    Raises
    ------
    FileNotFoundError
        A file or directory that is not there.
    PrepError
        A file that is none of the modalities, or may be several, or a second one for the same.
    """
    named, plain, many = _read(arguments, recipes)
    for source in [*named.values(), *plain]:
        if not source.path.is_file():
            raise FileNotFoundError(f"{source.path}: no such file or directory.")
    if not many:
        try:
            return [RawSample(_assign(plain, recipes, named))]
        except _TakenError:
            if named:
                raise
    by_name: dict[tuple[Path, str], list[Source]] = {}
    for source in plain:
        by_name.setdefault((source.path.parent, source.path.stem), []).append(source)
    return [RawSample(_assign(sources, recipes, {})) for sources in by_name.values()]


def _read(arguments: Sequence[str], recipes: Recipes) -> tuple[dict[Modality, Source], list[Source], bool]:
    """Return the files that are given by name, the others, and whether there are directories among the arguments."""
    named: dict[Modality, Source] = {}
    plain: list[Source] = []
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if equals and name in named:
            raise PrepError(f"{argument}: {name!r} is {named[name].path} already; give one file for it.")
        if equals and name in recipes:
            named[name] = Source.parse(file)
        elif equals and not Path(argument).exists():
            raise PrepError(f"{argument}: there is no modality {name!r} to predict from, only {list(recipes)}.")
        else:
            plain += _files(Path(argument)) if Path(argument).is_dir() else [Source.parse(argument)]
    many = any(Path(argument).is_dir() for argument in arguments)
    if named and many:
        raise PrepError("NAME=FILE is one sample, a directory is many: give one or the other.")
    return named, plain, many


def _files(directory: Path) -> list[Source]:
    found = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    if not found:
        raise PrepError(f"{directory}: holds no files to predict from.")
    return [Source(path) for path in found]


def _assign(sources: Sequence[Source], recipes: Recipes, named: Mapping[Modality, Source]) -> dict[Modality, Source]:
    """Return the source of each modality of one sample, in the order of the recipes."""
    found = dict(named)
    shared = {name: recipe["of"] for name, recipe in recipes.items() if recipe.get("of") in recipes}
    own = {name: recipe for name, recipe in recipes.items() if name not in shared}
    for source in sources:
        name = _modality_of(source, own)
        if name in found:
            raise _TakenError(
                f"{source.path} and {found[name].path} are both {name!r}; say what they are as NAME=FILE, or give "
                "samples of several files the same name before the ending."
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
    if not fitting:
        wanted = ", ".join(f"{name!r} ({' or '.join(maker.media)})" for name, maker in makers.items())
        raise PrepError(f"{source.path}: is {source.medium}, and the model is asked for {wanted}.")
    if len(fitting) > 1:
        choices = " or ".join(f"{name}={source.path}" for name in fitting)
        raise PrepError(f"{source.path}: may be one of {fitting}; give {choices}.")
    return fitting[0]


def _add_sound(source: Source, recipes: Recipes, found: dict[Modality, Source]) -> None:
    """Let a video that is seen be heard too, where the sample has no sound of its own and the video has."""
    makers = {name: maker_of(name, recipe) for name, recipe in recipes.items() if name not in found}
    fitting = [name for name, maker in makers.items() if source.medium in maker.media[1:]]
    if len(fitting) == 1 and _has_sound(source):
        found[fitting[0]] = source


def _has_sound(source: Source) -> bool:
    from data_prep.video import has_sound

    return has_sound(source.path)


def chunks(samples: Sequence[RawSample], inputs: Sequence[ModalitySpec], recipes: Recipes) -> Iterator[Chunk]:
    """Decode samples, some at a time.

    Parameters
    ----------
    samples
        From :func:`match`.
    inputs
        The model's modalities.
    recipes
        How each is made.

    Yields
    ------
    Stored values of the modalities that the samples have.
    """
    for start in range(0, len(samples), CHUNK):
        part = samples[start : start + CHUNK]
        used = [modality for modality in inputs if any(modality.name in sample.sources for sample in part)]
        arrays = {m.name: np.zeros((len(part), *m.shape), m.dtype) for m in used}
        present = {m.name: np.array([m.name in sample.sources for sample in part]) for m in used}
        for row, sample in enumerate(part):
            for modality in used:
                if modality.name in sample.sources:
                    source = sample.sources[modality.name]
                    arrays[modality.name][row] = make_sample(source, modality, recipes[modality.name])
        yield Chunk([sample.name for sample in part], arrays, present)
