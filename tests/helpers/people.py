"""People with photos, motion, notes and a table of what was measured, much of it missing.

And their manifest.
"""

import csv
from pathlib import Path

import numpy as np
from tabular import write_photo

from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes

PEOPLE = 60
COLUMNS = ("age", "bmi", "sex", "ward")
NOTES = ("feels dizzy and tired, fever since monday", "feels well and rested, no complaint")
Row = dict[str, str]


def write_people(raw: Path) -> list[Row]:
    """Write ill and well people in turn, of whom many lack something.

    Return the rows of their manifest.

    The ill are older and heavier and in another ward. Of ten people of each class one has no
    photo, one no note, one nothing in the table, and four lack one or two of its cells.
    """
    rng, rows = np.random.default_rng(0), []
    for number in range(PEOPLE):
        ill, name = number % 2 == 0, f"{number:02}"
        age, bmi = rng.normal((60, 30) if ill else (40, 22), (6, 2))
        cells = {
            "photo": f"photos/{name}.png",
            "motion": f"motion/{name}.npy",
            "note": f"{NOTES[not ill]}, visit {number}",
            "age": f"{age:.1f}",
            "bmi": f"{bmi:.2f}",
            "sex": "fm"[number // 2 % 2],
            "ward": f"{7 + 2 * number % 4}",
        }
        lacks = {
            0: ["photo"],
            1: ["age"],
            3: ["note"],
            4: list(COLUMNS),
            6: ["sex", "bmi"],
            7: ["ward"],
            9: ["bmi"],
        }
        cells |= dict.fromkeys(lacks.get(number // 2 % 10, []), "")
        if cells["photo"]:
            write_photo(
                raw / cells["photo"], (200, 90, 30) if ill else (30, 90, 200), (30, 24), seed=number
            )
        _write_motion(raw / cells["motion"], ill, rng)
        split = ("train", "train", "test")[number // 2 % 3]
        rows.append({"id": f"p{name}", "label": ("well", "ill")[ill], "split": split, **cells})
    with (raw / "samples.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return rows


def _write_motion(path: Path, ill: bool, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = np.linspace(-1, 1, 40)[:, None]
    np.save(path, (line[::-1] if ill else line) + rng.normal(0, 0.3, (40, 3)))


def prepare_people(folder: Path) -> Path:
    """Prepare motion, note and table, for encoders of series, texts and vectors."""
    write_people(folder / "raw")
    kinds = {"motion": "series", "note": "text", "lab": f"table:{','.join(COLUMNS)}"}
    sizes = Sizes(points=40, tokens=24, tokenizer="hashed:256", categories={"ward": ()})
    return manifest.prepare(
        folder / "raw" / "samples.csv", folder / "raw", folder / "out", kinds, sizes=sizes
    )
