"""A data set of text files, for the tests of the pipeline.

A file holds one number, its row is that number and more.

``python toy_archive.py RAW OUT WORKERS MAX_BAD`` prepares it, and kills itself with -9 where a
file says so.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UnreadableFileError
from data_prep.pipeline.execution import SERIAL, Execution
from data_prep.pipeline.plan import MEASURED, Exclusion, Plan, Planned, Stream
from data_prep.pipeline.prepare import prepare_plan

SPLITS = ("train", "train", "test")


def decode(job: tuple[str, float]) -> NDArray[Any]:
    """Return [[x, 10 x]] of a file that holds x."""
    path, factor = Path(job[0]), job[1]
    text = path.read_text()
    if text == "kill":
        os.kill(os.getppid() if os.environ.get("KILL_PARENT") else os.getpid(), signal.SIGKILL)
    if text == "bug":
        raise KeyError("no such thing")
    if text == "flat":
        return np.zeros(3)
    try:
        return np.array([[1.0, factor]]) * float(text)
    except ValueError as error:
        raise UnreadableFileError(path, f"holds {text!r}, no number") from error


def write_archive(raw: Path, count: int) -> None:
    """Write ``count`` samples; every fifth has no touch."""
    raw.mkdir()
    for number in range(count):
        (raw / f"{number:03}.sound").write_text(str(number))
        if number % 5:
            (raw / f"{number:03}.touch").write_text(str(-number))


def plan(raw: Path) -> Plan:
    """Two of three files are for training; number 7 is left out by a rule."""
    samples, excluded = [], []
    for number, path in enumerate(sorted(raw.glob("*.sound"))):
        if number == 7:
            excluded.append(Exclusion(path.stem, "train", path.name, "seven is no good"))
            continue
        files = {"sound": path, "touch": path.with_suffix(".touch")}
        found = {name: file for name, file in files.items() if file.exists()}
        jobs = {name: (str(file), 10.0) for name, file in found.items()}
        sources = {name: file.name for name, file in found.items()}
        samples.append(
            Planned(path.stem, number % 2, f"g{number % 4}", SPLITS[number % 3], jobs, sources)
        )
    streams = [
        Stream("sound", "series", (1, 2), "float32", decode, {"maker": "toy"}, MEASURED),
        Stream("touch", "series", (1, 2), "float16", decode, {"maker": "toy"}),
    ]
    return Plan(("even", "odd"), streams, samples, excluded, {"numpy": np.__version__})


def prepare_toys(raw: Path, out: Path, execution: Execution = SERIAL) -> Path:
    """Prepare the archive."""
    return prepare_plan(out, "toys", {"factor": 10}, lambda: plan(raw), execution)


if __name__ == "__main__":
    prepare_toys(
        Path(sys.argv[1]), Path(sys.argv[2]), Execution(int(sys.argv[3]), int(sys.argv[4]))
    )
