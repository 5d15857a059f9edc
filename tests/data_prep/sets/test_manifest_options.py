"""Options of ``fedcmi prep manifest`` that say what files leave open, headers and streams.

Kept for prediction.
"""

from pathlib import Path

import av
import commands
import media
import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.files.makers import Source, make_sample
from data_prep.sets.manifest_kinds import parse_streams
from fedcmi_flwr.data.schema import read_recipes, read_spec

ROWS = "id,label,split,x,y\na,a,train,{0},{0}\nb,b,train,{1},{1}\nc,a,test,{0},{1}\n"


def prepare(folder: Path, ending: str, kind: str, *options: str) -> str:
    """Prepare a.ENDING and b.ENDING as two modalities; return what is said of an error."""
    (folder / "samples.csv").write_text(ROWS.format(f"a.{ending}", f"b.{ending}"))
    kinds = ["--modality", f"x={kind}", "--modality", f"y={kind}", "--workers", "1"]
    paths = [
        "--manifest",
        str(folder / "samples.csv"),
        "--raw",
        str(folder),
        "--out",
        str(folder / "out"),
    ]
    return commands.fedcmi("prep", "manifest", *paths, *kinds, *options).stderr


def test_headers_are_as_stated(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"0,1\n{ord(name)},3\n4,5\n")
    assert "say --header yes or no" in prepare(tmp_path, "csv", "series", "--points", "2")
    assert prepare(tmp_path, "csv", "series", "--points", "2", "--header", "yes") == ""
    stored = np.load(tmp_path / "out" / "train" / "x.npy")
    assert stored[0].tolist() == [[97, 4], [3, 5]]
    recipe = read_recipes(tmp_path / "out")["x"]
    assert recipe == {"maker": "series", "channels": 2, "points": 2, "header": True}
    made = make_sample(
        Source(tmp_path / "a.csv"), read_spec(tmp_path / "out").modalities[0], recipe
    )
    assert np.array_equal(made, stored[0])


def write_two_tracks(path: Path, hertz: tuple[int, int]) -> None:
    """Write a Matroska file with two sound streams, none of which is flagged default."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in hertz]
        for stream in streams:
            stream.disposition = 0
        for stream, pitch in zip(streams, hertz, strict=True):
            sound = (media.tone(0.5, 16000, pitch) * 2**15).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def test_the_stream_that_is_asked_for(tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 50)):
        write_two_tracks(tmp_path / f"{name}.mka", (300 + shift, 2000 + shift))
    asked = ["--seconds", "0.5", "--stream"]
    assert "has 2 audio streams, asked for number 3" in prepare(
        tmp_path, "mka", "audio", *asked, "y=3"
    )
    assert prepare(tmp_path, "mka", "audio", *asked, "y=2") == ""
    first, second = (np.load(tmp_path / "out" / "train" / f"{name}.npy")[0, 0] for name in "xy")
    loudest = [
        int(stored.astype(float).mean(axis=1).argmax()) * 16000 / 512 for stored in (first, second)
    ]
    assert loudest == pytest.approx([300, 2000], abs=40)
    recipes = read_recipes(tmp_path / "out")
    assert [recipe.get("stream") for recipe in recipes.values()] == [None, 2]
    made = make_sample(
        Source(tmp_path / "a.mka"), read_spec(tmp_path / "out").modalities[1], recipes["y"]
    )
    assert np.array_equal(made[0], second)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("voice", "must be NAME=NUMBER"),
        ("voice=0", "with a number from 1 on"),
        ("photo=1", "'photo' is no modality of sound or video"),
        ("sound=1", "'sound' is no modality of sound or video"),
    ],
)
def test_faulty_streams_are_named(option: str, words: str) -> None:
    with pytest.raises(PrepError, match=words):
        parse_streams([option], {"voice": "audio", "photo": "image"})
