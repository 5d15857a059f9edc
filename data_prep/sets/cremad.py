"""CREMA-D: actors say sentences in six emotions, heard and seen.

Raw archive: ``AudioWAV/<clip>.wav`` beside ``VideoFlash/<clip>.flv``, clip =
``<actor>_<sentence>_<EMOTION>_<level>``. Stored are the spectrogram of 3 s and 3 frames at even
times. Group: the actor. A clip that has only one of its two files is kept and marked.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import PrepError
from data_prep.media.clips import FRAME_SIZE, MODALITIES, TOOLS, audio_stream, visual_stream
from data_prep.media.signature import refuse_pointers
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion, Plan, Planned, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.cremad_lists import find_lists, read_lists
from data_prep.sets.finding import by_stem
from data_prep.sets.splitting import group_part, stratified_part
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality

NAME = "cremad"
CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
FOLDERS = {"audio": ("AudioWAV", ".wav"), "visual": ("VideoFlash", ".flv")}
"""Folder and ending of each modality's files."""
SPLITS = ("actor", "random", "paper")
SECONDS = 3.0
FRAMES = 3
TEST_SHARE = 0.1

NOT_CLIPS = {"1076_MTI_SAD_XX": "has no sound and an error picture, says the data set's own page"}
"""Left out by name."""
ODD_DURATIONS = ("1076_MTI_NEU_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD")
"""Very short, without a stated duration, a minute long, says the page: their headers are not
held against them."""

_NAMED = f"<actor>_<sentence>_<emotion>_<level> with an emotion of {', '.join(CLASSES)}"
_CLIP = re.compile(rf"(?P<actor>[0-9]{{4}})_[A-Z]{{3}}_(?P<emotion>{'|'.join(CLASSES)})_[A-Z]+")


@dataclass(frozen=True)
class _Clip:
    """One clip of the archive."""

    name: str
    files: Mapping[Modality, Path]
    """Those of the wanted modalities that are there."""

    @property
    def actor(self) -> str:
        return self.name[:4]

    @property
    def label(self) -> int:
        return CLASSES.index(self.name.split("_")[2])


def prepare(
    raw: Path,
    out: Path,
    *,
    split: str = "actor",
    lists: Sequence[Path] = (),
    seed: int = 0,
    frame_size: int = FRAME_SIZE,
    modalities: Sequence[Modality] | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare CREMA-D; the same settings and raw data give the same bytes.

    Parameters
    ----------
    raw
        The directory that holds ``AudioWAV`` and ``VideoFlash``.
    out
        The prepared directory to make.
    split
        "actor": a tenth of the actors are for testing; "random": a tenth of each emotion's
        clips; "paper": what the lists say.
    lists
        For "paper", as ``cremad_lists.py`` reads them; none: ``train.csv`` and ``test.csv`` in
        ``raw``. Clips that they do not name are left out.
    seed
        Seed of the split, 0 or greater.
    frame_size
        Pixels of the stored frames.
    modalities
        What to store, "audio", "visual" or both; None is both. The folder of the other one is
        not looked at.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and
        who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        A part of the raw archive, or a list, is missing.
    PrepError
        A setting out of range, raw data that cannot be used, or something else at ``out``.
    """
    wanted = select_modalities(MODALITIES, modalities)
    if split not in SPLITS or seed < 0:
        raise PrepError(
            f"split = {split!r}, seed = {seed}: must be one of {', '.join(SPLITS)}, and at least 0."
        )
    if lists and split != "paper":
        raise PrepError(
            f"split = {split!r}: only 'paper' goes by lists; leave them out, or choose it."
        )

    streams = [audio_stream("audio", SECONDS), visual_stream("visual", FRAMES, frame_size)]
    settings: dict[str, Any] = {
        "split": split,
        "seed": seed,
        "frame_size": frame_size,
        "modalities": list(wanted),
    }
    found = find_lists(raw, lists) if split == "paper" else []
    if found:
        settings["list_sha256"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in found]

    def make_plan() -> Plan:
        clips, excluded = _find_clips(raw.resolve(), wanted)
        refuse_pointers((path for clip in clips for path in clip.files.values()), execution.max_bad)
        if found:
            splits, left_out = read_lists(found, {clip.name for clip in clips}, NOT_CLIPS)
            unlisted = [clip for clip in clips if clip.name not in splits]
            excluded += left_out
            excluded += [
                Exclusion(clip.name, "", _sources(clip), "in none of the lists")
                for clip in unlisted
            ]
        else:
            splits = _draw_splits(clips, split, seed)

        samples = [_plan_clip(clip, splits[clip.name]) for clip in clips if clip.name in splits]
        used = [stream for stream in streams if stream.name in wanted]

        return Plan(CLASSES, used, samples, excluded, tool_versions(*TOOLS))

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _find_clips(raw: Path, wanted: Sequence[Modality]) -> tuple[list[_Clip], list[Exclusion]]:
    """List the clips that have a file of a wanted modality, by name."""
    files: dict[str, dict[Modality, Path]] = {}
    strange: list[Exclusion] = []
    for modality in wanted:
        folder, ending = FOLDERS[modality]
        if not (raw / folder).is_dir():
            raise FileNotFoundError(
                f"{raw / folder}: not found, expected a folder of <clip>{ending}; give the "
                "directory that holds it."
            )

        found = by_stem(raw / folder, ending)
        if not found:
            raise PrepError(f"{raw / folder}: holds no {ending} files; unpack them there.")

        for name, path in found.items():
            if _CLIP.fullmatch(name):
                files.setdefault(name, {})[modality] = path
            else:
                strange.append(
                    Exclusion(name, "", f"{folder}/{path.name}", f"its name is not {_NAMED}")
                )

    clips = [_Clip(name, files[name]) for name in sorted(files)]
    left_out = [
        Exclusion(c.name, "", _sources(c), NOT_CLIPS[c.name]) for c in clips if c.name in NOT_CLIPS
    ]

    return [clip for clip in clips if clip.name not in NOT_CLIPS], left_out + strange


def _draw_splits(clips: Sequence[_Clip], split: str, seed: int) -> dict[str, str]:
    generator = numpy_generator(seed, f"{NAME}/{split}")
    if split == "actor":
        actors = group_part([clip.actor for clip in clips], TEST_SHARE, generator)
        is_test = [clip.actor in actors for clip in clips]
    else:
        is_test = stratified_part(
            np.array([clip.label for clip in clips]), TEST_SHARE, generator
        ).tolist()

    return {
        clip.name: "test" if test else "train" for clip, test in zip(clips, is_test, strict=True)
    }


def _plan_clip(clip: _Clip, split: str) -> Planned:
    jobs = {m: (str(path), None, clip.name not in ODD_DURATIONS) for m, path in clip.files.items()}
    sources = {m: _source(clip, m) for m in clip.files}
    return Planned(
        clip.name,
        clip.label,
        clip.actor,
        split,
        jobs,
        sources,
        [str(path) for path in clip.files.values()],
    )


def _source(clip: _Clip, modality: Modality) -> str:
    return f"{FOLDERS[modality][0]}/{clip.files[modality].name}"


def _sources(clip: _Clip) -> str:
    return ";".join(_source(clip, modality) for modality in clip.files)
