"""data_prep.files.raw_samples: which file is which modality of which sample."""

from collections.abc import Callable
from pathlib import Path

import kinds
import media
import numpy as np
import pytest
import soundfile
from PIL import Image

from data_prep.errors import PrepError
from data_prep.files import raw_samples
from data_prep.files.raw_samples import chunks, match
from fedcmi_flwr.data.schema import ModalitySpec

SOUND = {"maker": "log-spectrogram", "seconds": 0.5}
FRAMES = {"maker": "video-frames", "count": 2, "size": 16}
PHOTO = {"maker": "photo", "size": 16}
TEXT = {"maker": "tokens", "tokens": 8, "tweets": False, "tokenizer": "{}"}
TWO = {"audio": SOUND, "visual": FRAMES}
FOUR = {"audio": SOUND, "photo": PHOTO, "other": PHOTO, "text": TEXT}


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., list[str]]:
    """Return a maker of empty files, which matching does not look into."""

    def make(*names: str) -> list[str]:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return [str(tmp_path / name) for name in names]

    return make


def found(arguments: list[str], recipes: dict = TWO) -> list[dict[str, str]]:
    samples = match(arguments, recipes).samples
    return [
        {name: source.path.name for name, source in sample.sources.items()} for sample in samples
    ]


def test_kinds_say_the_modality(touch: Callable[..., list[str]]) -> None:
    assert found(touch("a.WAV")) == [{"audio": "a.WAV"}]
    three = {"photo": PHOTO, "text": TEXT, "audio": SOUND}
    assert found(touch("x.txt", "b.jpg", "a.flac"), three) == [
        {"photo": "b.jpg", "text": "x.txt", "audio": "a.flac"}
    ]


def test_one_of_each_is_one_sample_and_more_go_by_name(touch: Callable[..., list[str]]) -> None:
    three = {"photo": PHOTO, "audio": SOUND}
    assert found(touch("a.wav", "b.png"), three) == [{"photo": "b.png", "audio": "a.wav"}]
    assert found(touch("a.wav", "b.wav", "b.png"), three) == [
        {"audio": "a.wav"},
        {"photo": "b.png", "audio": "b.wav"},
    ]


def test_a_directory_is_one_sample_a_name(touch: Callable[..., list[str]], tmp_path: Path) -> None:
    touch("d/b.wav", "d/a.wav", "d/.hidden")
    assert found([str(tmp_path / "d")]) == [{"audio": "a.wav"}, {"audio": "b.wav"}]
    touch("e/only.wav")
    assert found([str(tmp_path / "e"), str(tmp_path / "d")]) == [
        {"audio": "only.wav"}, {"audio": "a.wav"}, {"audio": "b.wav"},
    ]  # fmt: skip


def test_a_video_is_seen_and_heard_where_nothing_else_is(
    touch: Callable[..., list[str]], tmp_path: Path
) -> None:
    film, mute = str(tmp_path / "film.mp4"), str(tmp_path / "mute.mp4")
    media.write_video(Path(film), 4, "mpeg4", sound=media.tone(0.5, 16000, 440), sound_rate=16000)
    media.write_video(Path(mute), 4, "mpeg4")
    assert found([film]) == [{"audio": "film.mp4", "visual": "film.mp4"}]
    assert found([mute]) == [{"visual": "mute.mp4"}]
    assert found([film, *touch("a.wav")]) == [{"audio": "a.wav", "visual": "film.mp4"}]
    assert found([film], {"audio": SOUND}) == [{"audio": "film.mp4"}]
    assert found([f"audio={film}"]) == [{"audio": "film.mp4"}]


def test_what_is_made_of_anothers_files_takes_them(touch: Callable[..., list[str]]) -> None:
    three = {"audio": SOUND, "trace": {**SOUND, "of": "audio"}, "visual": FRAMES}
    one, two = touch("a.wav", "b.wav")
    assert found([one], three) == [{"audio": "a.wav", "trace": "a.wav"}]
    assert found([one, f"trace={two}"], three) == [{"audio": "a.wav", "trace": "b.wav"}]
    assert found([one], {"trace": three["trace"]}) == [{"trace": "a.wav"}]


def test_names_settle_what_kinds_leave_open(touch: Callable[..., list[str]]) -> None:
    one, two = touch("1.jpg", "2.data")
    assert found([f"other={one}", f"photo={two}"], FOUR) == [{"photo": "2.data", "other": "1.jpg"}]
    (text,) = touch("a=b.txt")
    assert found([text], FOUR) == [{"text": "a=b.txt"}]


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        (
            ["1.jpg"],
            ["1.jpg"],
            r"may be one of \['photo', 'other'\]; give photo=.*1\.jpg or other=.*1\.jpg",
        ),
        (["1.mp4"], ["text=x", "1.mp4"], "no such file"),
        (
            ["1.xyz"],
            ["1.xyz"],
            r"neither its ending nor its content says what it is, .* 'audio' \(sound .*give NAME=.*1\.xyz",
        ),
        (
            ["1.csv"],
            ["1.csv"],
            r"is numbers, and the model is asked for 'audio' \(sound or video\), 'photo' \(image\)",
        ),
        (
            ["1.png"],
            ["audio=1.png"],
            r"audio=1\.png: is no sound or video file but image, by its ending",
        ),
        (["1.wav"], ["smell=1.wav"], r"no modality 'smell' to predict from, only \['audio'"),
        (["1.wav", "2.wav"], ["audio=1.wav", "2.wav"], r"2\.wav and .*1\.wav are both 'audio'"),
        (["1.wav", "2.wav"], ["audio=1.wav", "audio=2.wav"], r"'audio' is .*1\.wav already"),
        (
            ["1.wav", "1.flac", "2.wav"],
            ["1.wav", "1.flac", "2.wav"],
            r"1\.flac and .*1\.wav are both 'audio'",
        ),
        (["d/1.wav", "2.txt"], ["d", "text=2.txt"], "one sample, a directory is many"),
    ],
    ids=[
        "ambiguous",
        "missing",
        "unknown ending",
        "unfit",
        "named unfit",
        "unknown name",
        "twice",
        "named twice",
        "same stem",
        "mix",
    ],
)
def test_what_cannot_be_matched_says_what_to_do(
    touch: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    files: list[str], arguments: list[str], message: str,
) -> None:  # fmt: skip
    touch(*files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((PrepError, FileNotFoundError), match=message):
        match(arguments, FOUR)


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        PrepError, match=r"holds no file to predict from, of 0; need one of .*\.wav"
    ):
        match([str(tmp_path)], TWO)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PrepError, match="holds no file to predict from, of 1"):
        match([str(tmp_path)], TWO)


def test_what_no_recipe_takes_is_skipped_in_directories(
    touch: Callable[..., list[str]], tmp_path: Path
) -> None:
    touch("d/b.wav", "d/b.json", "d/cover.png", "d/LICENSE")
    matched = match([str(tmp_path / "d")], TWO)
    assert [sample.name for sample in matched.samples] == [str(tmp_path / "d" / "b.wav")]
    assert sorted(path.name for path in matched.skipped) == ["LICENSE", "b.json", "cover.png"]


def test_a_broken_video_is_matched_and_found_when_it_is_read(
    touch: Callable[..., list[str]],
) -> None:
    (film,) = touch("film.mp4")
    matched = match([film], TWO)
    assert [list(sample.sources) for sample in matched.samples] == [["visual"]]
    unreadable: dict[Path, str] = {}
    inputs = [ModalitySpec("visual", "frames", (2, 3, 16, 16), "uint8")]
    assert list(chunks(matched.samples, inputs, TWO, unreadable)) == []
    assert list(unreadable) == [Path(film)]
    assert "an empty file" in unreadable[Path(film)]


def test_samples_are_made_of_what_can_be_read(tmp_path: Path) -> None:
    """Of "a" the sound is broken, of "b" all there is; of "c" nothing."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_text("no sound")
    for name, level in (("a", 10), ("c", 20)):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    inputs = [
        ModalitySpec("audio", "spectrogram", (1, 257, 48), "float16"),
        ModalitySpec("photo", "image", (3, 16, 16), "uint8"),
    ]
    recipes = {"audio": SOUND, "photo": PHOTO}
    unreadable: dict[Path, str] = {}
    (chunk,) = chunks(match([str(tmp_path)], recipes).samples, inputs, recipes, unreadable)
    assert [list(chunk.inputs), chunk.inputs["photo"][:, 0, 0, 0].tolist()] == [["photo"], [10, 20]]
    assert chunk.present["photo"].tolist() == [True, True]
    assert [path.name for path in unreadable] == ["a.wav", "b.wav"]
    assert all("not decodable" in reason for reason in unreadable.values())


def test_files_of_one_name_are_one_sample_whatever_folder_they_are_in(
    touch: Callable[..., list[str]], tmp_path: Path
) -> None:
    touch("photos/a.jpg", "photos/b.jpg", "motion/a.m4a", "motion/b.M4A")
    two = {"photo": PHOTO, "audio": SOUND}
    expected = [{"photo": "a.jpg", "audio": "a.m4a"}, {"photo": "b.jpg", "audio": "b.M4A"}]
    assert found([str(tmp_path / "photos"), str(tmp_path / "motion")], two) == expected
    assert found([str(tmp_path)], two) == expected
    assert found([f"photo={tmp_path / 'photos'}", str(tmp_path / "motion")], two) == expected


def test_names_that_come_again_go_by_folder_where_that_says_it(
    touch: Callable[..., list[str]], tmp_path: Path
) -> None:
    two = {"photo": PHOTO, "audio": SOUND}
    touch("p/1.jpg", "p/1.wav", "q/1.jpg", "q/1.wav")
    assert found([str(tmp_path)], two) == [{"photo": "1.jpg", "audio": "1.wav"}] * 2
    touch("r/2.jpg", "s/2.jpg", "t/2.wav")
    with pytest.raises(PrepError, match="are both 'photo' of one sample"):
        match([str(tmp_path)], two)


def test_a_directory_may_say_its_modality(touch: Callable[..., list[str]], tmp_path: Path) -> None:
    touch("front/a.jpg", "side/a.jpg")
    two = {"photo": PHOTO, "other": PHOTO}
    (sample,) = match([f"photo={tmp_path / 'front'}", f"other={tmp_path / 'side'}"], two).samples
    assert {name: source.path.parent.name for name, source in sample.sources.items()} == {
        "photo": "front",
        "other": "side",
    }


def test_chunks_hold_what_each_sample_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three samples, two at a time: sound and image, sound, image."""
    monkeypatch.setattr(raw_samples, "CHUNK", 2)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", media.tone(0.5, 16000, 440), 16000)
    for name, level in (("a", 10), ("c", 20)):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    inputs = [
        ModalitySpec("audio", "spectrogram", (1, 257, 48), "float16"),
        ModalitySpec("photo", "image", (3, 16, 16), "uint8"),
        kinds.SERIES,
    ]
    recipes = {
        "audio": SOUND,
        "photo": PHOTO,
        "motion": {"maker": "series", "channels": 6, "points": 50},
    }
    first, second = chunks(match([str(tmp_path)], recipes).samples, inputs, recipes, {})
    assert [name.replace(str(tmp_path), "") for name in first.names] == [
        "/a.wav + /a.png",
        "/b.wav",
    ]
    assert {name: mask.tolist() for name, mask in first.present.items()} == {"audio": [True, True],
                                                                              "photo": [True, False]}  # fmt: skip
    assert first.inputs["photo"][0].tolist() == np.full((3, 16, 16), 10).tolist()
    assert not first.inputs["photo"][1].any()
    assert np.array_equal(first.inputs["audio"][0], first.inputs["audio"][1])
    assert list(second.inputs) == ["photo"]
    assert second.inputs["photo"].min() == 20
