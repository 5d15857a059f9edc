"""The table of a manifest in data_prep/DATASETS.md, prepared as it stands there."""

import csv
from pathlib import Path

import numpy as np
import soundfile
from media import tone
from tabular import MANIFEST_MODALITIES, write_photo

from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.schema import read_spec

README = Path(__file__).parents[3] / "data_prep" / "DATASETS.md"


def test_the_table_of_the_readme_is_a_manifest(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    table = "id,label,split" + text.partition("```\nid,label,split")[2].partition("```")[0]
    (tmp_path / "samples.csv").write_text(table)
    rows = list(csv.DictReader(table.splitlines()))
    for name in (row[column] for row in rows for column in MANIFEST_MODALITIES if row[column]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".csv":
            np.savetxt(
                path,
                np.random.default_rng(len(name)).random((9, 2)),
                delimiter=",",
                header="x,y",
                comments="",
            )
        elif path.suffix in (".wav", ".flac"):
            soundfile.write(path, tone(1, 16000, 300), 16000)
        else:
            write_photo(path, (90, 120, 30))
    out = manifest.prepare(
        tmp_path / "samples.csv",
        tmp_path,
        tmp_path / "out",
        MANIFEST_MODALITIES,
        sizes=Sizes(image_size=8),
    )
    assert read_spec(out).splits == {"train": 2, "test": 1}
