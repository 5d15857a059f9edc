"""AVE: events that are heard and seen, segments of web videos.

Raw archive: ``Annotations.txt``, ``trainSet.txt``, ``valSet.txt``, ``testSet.txt`` with lines
``Category&VideoID&Quality&Start&End`` beside ``AVE/<VideoID>.mp4``. Stored are the spectrogram
of the segment tiled to 10 s and 10 frames at even times within the segment. A sample is a video
id AND a segment. Group: the video id.

A line that cannot be used is left out and listed; it stops nothing. The official lists have one
segment without length, and 45 videos under two or three categories. Split "clean": a segment
under several categories of one list has no single right label and is left out of it, and a video
of a later list is left out of the earlier ones. Split "paper": every line is a sample, as most
who publish on AVE read the lists.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.errors import PrepError
from data_prep.media.clips import FRAME_SIZE, MODALITIES, TOOLS, audio_stream, visual_stream
from data_prep.media.signature import refuse_pointers
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion, Plan, Planned, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from data_prep.sets.finding import by_stem
from fedcmi_flwr.types import Modality

NAME = "ave"
ANNOTATIONS = "Annotations.txt"
LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
VIDEOS = "AVE"
SECONDS = 10.0
FRAMES = 10
FIELDS = "Category&VideoID&Quality&Start&End"
SPLITS = ("clean", "paper")
CONFLICT = "conflicting labels"


@dataclass(frozen=True)
class _Event:
    """One line of a list."""

    category: str
    video: str
    start: float
    """Seconds."""
    end: float
    """Seconds."""
    occurrence: int = 1
    """Of the same segment, where every line of a list is a sample."""

    @property
    def id(self) -> str:
        again = f"#{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.video}_{self.start:g}-{self.end:g}{again}"

    @property
    def source(self) -> str:
        return f"{VIDEOS}/{self.video}.mp4"


def prepare(
    raw: Path,
    out: Path,
    *,
    split: str = "clean",
    keep_overlap: bool = False,
    frame_size: int = FRAME_SIZE,
    modalities: Sequence[Modality] | None = None,
    execution: Execution = SERIAL,
) -> Path:
    """Prepare AVE; the same settings and raw data give the same bytes.

    Parameters
    ----------
    raw
        The directory that holds the four lists and the folder ``AVE``.
    out
        The prepared directory to make.
    split
        "clean": one label for each segment, no video in two splits; "paper": every line of the
        lists is a sample.
    keep_overlap
        Of "clean": keep training samples of videos that are in the validation or test list too,
        and validation samples of videos in the test list; otherwise they are left out and listed
        in ``excluded.csv``.
    frame_size
        Pixels of the stored frames.
    modalities
        What to store, "audio", "visual" or both; None is both.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and
        who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        A list or the folder of videos is missing.
    PrepError
        A setting out of range, lists without a usable line, unusable videos, or something else
        at ``out``.
    """
    wanted = select_modalities(MODALITIES, modalities)
    if split not in SPLITS:
        raise PrepError(f"split = {split!r}: must be one of {', '.join(SPLITS)}.")

    streams = [audio_stream("audio", SECONDS), visual_stream("visual", FRAMES, frame_size)]
    used = [stream for stream in streams if stream.name in wanted]
    settings = {
        "split": split,
        "keep_overlap": keep_overlap,
        "frame_size": frame_size,
        "modalities": list(wanted),
    }

    def make_plan() -> Plan:
        annotated, excluded = _read_events(raw / ANNOTATIONS, "")
        lists: dict[str, list[_Event]] = {}
        for name, file in LISTS.items():
            lists[name], unusable = _read_events(raw / file, name)
            excluded = [
                entry for entry in excluded if entry.id not in {other.id for other in unusable}
            ] + unusable

        folder = raw.resolve() / VIDEOS
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: not found, expected a folder of <VideoID>.mp4; unpack it there."
            )

        videos = by_stem(folder, ".mp4")
        refuse_pointers(videos.values(), execution.max_bad)

        # As the paper numbers them
        classes = tuple(dict.fromkeys(event.category for event in lists["test"]))
        listed = {event for events in lists.values() for event in events}
        lists, unknown = _without_unknown(lists, classes)
        excluded += unknown
        if split == "paper":
            kept = {name: _numbered(events) for name, events in lists.items()}
        else:
            kept, left_out = _clean(lists, keep_overlap)
            excluded += left_out

        unlisted = [event for event in dict.fromkeys(annotated) if event not in listed]
        excluded += [
            Exclusion(event.id, "", event.source, "annotated, but in none of the lists")
            for event in unlisted
        ]
        samples = [
            _plan_event(event, name, classes.index(event.category), videos, folder, wanted)
            for name, events in kept.items()
            for event in events
        ]

        return Plan(classes, used, samples, excluded, tool_versions(*TOOLS))

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _read_events(path: Path, split: str) -> tuple[list[_Event], list[Exclusion]]:
    """Read a list; a first line that names the fields is passed over, and one that cannot be used
    is left out.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, expected lines {FIELDS}; give the directory that holds it."
        )

    events: list[_Event] = []
    unusable: list[Exclusion] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = [field.strip() for field in line.split("&")]
        is_header = number == 1 and fields[1:2] == ["VideoID"]
        if is_header or not line.strip():
            continue

        event, reason = _parse(fields)
        if event is not None:
            events.append(event)
        else:
            name = "_".join(fields[1:2]) or line.strip()
            unusable.append(
                Exclusion(name, split, f"{path.name}:{number}", f"{reason}: {line.strip()!r}")
            )

    if not events:
        raise PrepError(f"{path}: holds no lines {FIELDS}; fetch it again.")

    return events, unusable


def _parse(fields: Sequence[str]) -> tuple[_Event | None, str]:
    """Return the event of a line, or why there is none."""
    try:
        category, video, _, start, end = fields
        event = _Event(category, video, float(start), float(end))
    except ValueError:
        return None, f"a line that is not {FIELDS}"

    if not (category and video):
        return None, "a line without category or video"
    if not 0 <= event.start < event.end < math.inf:
        return None, "a segment without length"

    return event, ""


def _without_unknown(
    lists: Mapping[str, Sequence[_Event]], classes: Sequence[str]
) -> tuple[dict[str, list[_Event]], list[Exclusion]]:
    """Leave out lines of categories that the test list, which numbers the classes, does not
    have.
    """
    kept = {
        split: [event for event in events if event.category in classes]
        for split, events in lists.items()
    }
    excluded = [
        Exclusion(
            event.id, split, event.source, f"category {event.category!r} is not in {LISTS['test']}"
        )
        for split, events in lists.items()
        for event in events
        if event.category not in classes
    ]
    return kept, excluded


def _clean(
    lists: Mapping[str, Sequence[_Event]], keep_overlap: bool
) -> tuple[dict[str, list[_Event]], list[Exclusion]]:
    """Leave out lines that are there twice or contradict each other, and what stands in a later
    split too.
    """
    kept: dict[str, list[_Event]] = {}
    excluded: list[Exclusion] = []
    splits = list(lists)
    for place, (split, events) in enumerate(lists.items()):
        kept[split], seen = [], set[str]()
        categories: dict[str, set[str]] = {}
        for event in events:
            categories.setdefault(event.id, set()).add(event.category)

        later = (
            {}
            if keep_overlap
            else {e.video: (other, e) for other in splits[place + 1 :] for e in lists[other]}
        )
        for event in events:
            reason = ""
            if event.video in later:
                reason = _overlap(event, *later[event.video])
            elif len(categories[event.id]) > 1:
                reason = (
                    f"{CONFLICT}: under {len(categories[event.id])} categories in {LISTS[split]}"
                )
            elif event.id in seen:
                reason = f"listed a second time in {LISTS[split]}"

            if reason:
                excluded.append(Exclusion(event.id, split, event.source, reason))
            else:
                kept[split].append(event)
                seen.add(event.id)

    return kept, excluded


def _overlap(event: _Event, split: str, other: _Event) -> str:
    """Return why a video that stands in a later split too is left out of an earlier one."""
    if event.category != other.category:
        return f"{CONFLICT}: its video is in {LISTS[split]} too, under another category"
    return f"its video is in {LISTS[split]} too"


def _numbered(events: Sequence[_Event]) -> list[_Event]:
    """Return every line as a sample.

    Where a segment comes again, its number is part of the sample's id.
    """
    seen: Counter[str] = Counter()
    numbered = []
    for event in events:
        seen[event.id] += 1
        numbered.append(replace(event, occurrence=seen[event.id]))

    return numbered


def _plan_event(
    event: _Event,
    split: str,
    label: int,
    videos: Mapping[str, Path],
    folder: Path,
    wanted: Sequence[Modality],
) -> Planned:
    # That is not there: told, and counted, by the reader
    file = videos.get(event.video, folder / f"{event.video}.mp4")
    job = (str(file), (event.start, event.end), True)
    source = f"{VIDEOS}/{file.name}#{event.start:g}-{event.end:g}s"
    jobs, sources = dict.fromkeys(wanted, job), dict.fromkeys(wanted, source)

    return Planned(event.id, label, event.video, split, jobs, sources, (str(file),))
