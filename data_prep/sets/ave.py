"""AVE: events that are heard and seen, segments of web videos.

Raw archive: ``Annotations.txt``, ``trainSet.txt``, ``valSet.txt``, ``testSet.txt`` with lines
``Category&VideoID&Quality&Start&End`` beside ``AVE/<VideoID>.mp4``. Stored are the spectrogram of the segment tiled to
10 s and 10 frames at even times within the segment. A sample is a video id AND a segment, since some videos have two.
Group: the video id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import PrepError
from data_prep.media.clips import FRAME_SIZE, MODALITIES, TOOLS, audio_stream, visual_stream
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import Exclusion, Plan, Planned, select_modalities, tool_versions
from data_prep.pipeline.prepare import prepare_plan
from fedcmi_flwr.types import Modality

NAME = "ave"
ANNOTATIONS = "Annotations.txt"
LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
VIDEOS = "AVE"
SECONDS = 10.0
FRAMES = 10
FIELDS = "Category&VideoID&Quality&Start&End"


@dataclass(frozen=True)
class _Event:
    """One line of a list."""

    category: str
    video: str
    start: float
    """Seconds."""
    end: float
    """Seconds."""

    @property
    def id(self) -> str:
        return f"{self.video}_{self.start:g}-{self.end:g}"

    @property
    def source(self) -> str:
        return f"{VIDEOS}/{self.video}.mp4"


def prepare(
    raw: Path,
    out: Path,
    *,
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
    keep_overlap
        Keep training samples of videos that are in the validation or test list too, and validation samples of videos
        in the test list; otherwise they are left out and listed in ``excluded.csv``.
    frame_size
        Pixels of the stored frames.
    modalities
        What to store, "audio", "visual" or both; None is both.
    execution
        Workers, how many samples may be left out because a file of theirs cannot be used, and who is told.

    Returns
    -------
    The prepared directory, absolute.

    Raises
    ------
    FileNotFoundError
        A list or the folder of videos is missing.
    PrepError
        A setting out of range, a line that is not as expected, unusable videos, or something else at ``out``.
    """
    wanted = select_modalities(MODALITIES, modalities)
    streams = [audio_stream("audio", SECONDS), visual_stream("visual", FRAMES, frame_size)]
    used = [stream for stream in streams if stream.name in wanted]
    settings = {"keep_overlap": keep_overlap, "frame_size": frame_size, "modalities": list(wanted)}

    def make_plan() -> Plan:
        annotated = _read_events(raw / ANNOTATIONS)
        lists = {split: _read_events(raw / name) for split, name in LISTS.items()}
        videos = raw.resolve() / VIDEOS
        if not videos.is_dir():
            raise FileNotFoundError(f"{videos}: not found, expected a folder of <VideoID>.mp4; unpack it there.")
        classes = _classes(lists)
        kept, excluded = _without_repeats(lists, keep_overlap)
        listed = {event for events in lists.values() for event in events}
        unlisted = [event for event in dict.fromkeys(annotated) if event not in listed]
        excluded += [Exclusion(event.id, "", event.source, "annotated, but in none of the lists") for event in unlisted]
        samples = [
            _plan_event(event, split, classes.index(event.category), videos, wanted)
            for split, events in kept.items()
            for event in events
        ]
        return Plan(classes, used, samples, excluded, tool_versions(*TOOLS))

    return prepare_plan(out, NAME, settings, make_plan, execution)


def _read_events(path: Path) -> list[_Event]:
    """Read a list; a first line that names the fields is passed over."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, expected lines {FIELDS}; give the directory that holds it.")
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = [field.strip() for field in line.split("&")]
        is_header = number == 1 and fields[1:2] == ["VideoID"]
        if is_header or not line.strip():
            continue
        try:
            category, video, _, start, end = fields
            event = _Event(category, video, float(start), float(end))
        except ValueError as error:
            raise PrepError(f"{path}, line {number}: {line!r}, expected {FIELDS}; mend the line.") from error
        if not (category and video and 0 <= event.start < event.end < float("inf")):
            raise PrepError(f"{path}, line {number}: {line!r}, expected names, and 0 <= Start < End in seconds.")
        events.append(event)
    if not events:
        raise PrepError(f"{path}: holds no lines {FIELDS}; fetch it again.")
    return events


def _classes(lists: Mapping[str, Sequence[_Event]]) -> tuple[str, ...]:
    """Return the categories in order of first appearance in the test list, as the paper numbers them."""
    classes = tuple(dict.fromkeys(event.category for event in lists["test"]))
    for split, events in lists.items():
        unknown = sorted({event.category for event in events} - set(classes))
        if unknown:
            raise PrepError(
                f"{LISTS[split]}: categories {unknown} are not in {LISTS['test']}, which numbers the classes; "
                "complete the lists."
            )
    return classes


def _without_repeats(
    lists: Mapping[str, Sequence[_Event]], keep_overlap: bool
) -> tuple[dict[str, list[_Event]], list[Exclusion]]:
    """Leave out lines that are there twice and, unless wanted, what stands in a later split too."""
    kept: dict[str, list[_Event]] = {}
    excluded = []
    splits = list(lists)
    for place, (split, events) in enumerate(lists.items()):
        kept[split] = []
        later = {event.video: other for other in splits[place + 1 :] for event in lists[other]}
        for event in events:
            reason = ""
            if any(event.id == other.id for other in kept[split]):
                reason = f"listed a second time in {LISTS[split]}"
            elif event.video in later and not keep_overlap:
                reason = f"its video is in {LISTS[later[event.video]]} too"
            if reason:
                excluded.append(Exclusion(event.id, split, event.source, reason))
            else:
                kept[split].append(event)
    return kept, excluded


def _plan_event(event: _Event, split: str, label: int, videos: Path, wanted: Sequence[Modality]) -> Planned:
    job = (str(videos / f"{event.video}.mp4"), (event.start, event.end), True)
    source = f"{event.source}#{event.start:g}-{event.end:g}s"
    return Planned(event.id, label, event.video, split, dict.fromkeys(wanted, job), dict.fromkeys(wanted, source))
