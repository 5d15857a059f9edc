"""data_prep.files.makers: a raw file becomes exactly the array that the preparation stored
of it.
"""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import media
import numpy as np
import pytest
import soundfile
import tabular
from PIL import Image

from data_prep.errors import PrepError, UnreadableFileError
from data_prep.files.makers import MAKERS, Source, make_sample, maker_of
from data_prep.sets import av_digits, ave, avmnist, cremad, crisismmd, digits, manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.schema import SchemaError, array_path, read_recipes, read_spec, samples_path


def compare(
    prepared: Path, raw: Path, to_file: Callable[[str, str], str | Path] | None = None
) -> int:
    """Make every test sample of its source again, and compare.

    Return how many arrays were the same.
    """
    spec, recipes, same = read_spec(prepared), read_recipes(prepared), 0
    assert recipes.keys() == set(spec.modality_names)
    with samples_path(prepared, "test").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        sources = dict(zip(row["modalities"].split("+"), row["source"].split(";"), strict=True))
        for modality in spec.modalities:
            if modality.name in sources:
                place = (
                    to_file(modality.name, sources[modality.name])
                    if to_file
                    else raw / sources[modality.name]
                )
                made = make_sample(Source.parse(str(place)), modality, recipes[modality.name])
                stored = np.load(array_path(prepared, "test", modality.name), mmap_mode="r")[number]
                assert made.dtype == stored.dtype
                np.testing.assert_array_equal(made, stored)
                same += 1
    return same


def test_cremad(tmp_path: Path) -> None:
    media.write_cremad(tmp_path / "raw", actors=("1001", "1002"), sentences=("DFA",))
    for bad in (media.NOT_A_CLIP, media.VERY_SHORT, media.NO_DURATION, media.MINUTE_LONG):
        (tmp_path / "raw/AudioWAV" / f"{bad}.wav").unlink()
        (tmp_path / "raw/VideoFlash" / f"{bad}.flv").unlink()
    prepared = cremad.prepare(tmp_path / "raw", tmp_path / "out", frame_size=32)
    assert compare(prepared, tmp_path / "raw") == 2 * 6


def test_ave_with_its_segments(tmp_path: Path) -> None:
    media.write_ave(tmp_path / "raw", videos=4)
    prepared = ave.prepare(tmp_path / "raw", tmp_path / "out", frame_size=32)
    assert compare(prepared, tmp_path / "raw") == 2 * 4


def test_avmnist_without_noise(
    raw_avmnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are PNG files here, not rows of MNIST's file."""
    monkeypatch.setattr(digits, "add_noise", lambda waveform, noise, snr_db: waveform)
    names = ["audio", "visual", "contour"]
    prepared = avmnist.prepare(
        raw_avmnist, tmp_path / "out", train_size=30, image_noise=0.0, modalities=names
    )
    content = gzip.decompress((raw_avmnist / avmnist.IMAGES).read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)

    def to_file(modality: str, source: str) -> Path:
        if modality != "visual":
            return raw_avmnist / source
        row = int(source.split("#")[1])
        Image.fromarray(images[row]).save(tmp_path / f"{row}.png")
        return tmp_path / f"{row}.png"

    assert compare(prepared, raw_avmnist, to_file) == 3 * 40


def test_av_digits_has_the_recipes_of_the_digit_tasks(tmp_path: Path) -> None:
    """Nothing of it is a file.

    Its stored arrays come from the same two recipes as those of AV-MNIST.
    """
    prepared = av_digits.prepare(tmp_path / "out")
    recipes = read_recipes(prepared)
    assert recipes["audio"] == {
        "maker": "log-mel", "rate_hz": 8000, "samples": 6144, "bands": 32, "window": 256, "hop": 192, "floor": 1e-4,
    }  # fmt: skip
    assert recipes["visual"] == {"maker": "grey-image", "size": 28}


def test_crisismmd(tmp_path: Path) -> None:
    """A text is a row of a table there; here it stands in a file of its own."""
    tokenizer = tabular.write_tokenizer(tmp_path / "tokenizer")
    splits = tabular.write_crisismmd(tmp_path / "raw")
    prepared = crisismmd.prepare(
        tmp_path / "raw", tmp_path / "out", tokenizer=str(tokenizer), image_size=32
    )
    (tokenizer / "vocab.txt").unlink()  # the recipe holds the words

    def to_file(modality: str, source: str) -> Path:
        if modality == "image":
            return tmp_path / "raw" / source
        place = tmp_path / "text.txt"
        place.write_text(
            splits["test"][int(source.rpartition(":")[2]) - 2]["tweet_text"], encoding="utf-8"
        )
        return place

    assert compare(prepared, tmp_path / "raw", to_file) == 2 * 10


def test_own_data(tmp_path: Path) -> None:
    table = tabular.write_manifest(tmp_path / "raw")
    sizes = Sizes(image_size=16, seconds=0.5, points=32)
    prepared = manifest.prepare(
        table, tmp_path / "raw", tmp_path / "out", tabular.MANIFEST_MODALITIES, sizes=sizes
    )
    assert compare(prepared, tmp_path / "raw") == 3 * 20 - 6


def test_own_videos_are_seen_and_heard(tmp_path: Path) -> None:
    for number in range(4):
        sound = media.tone(1, 16000, 300 + 100 * number)
        media.write_video(tmp_path / f"{number}.mp4", 12, "mpeg4", sound=sound, sound_rate=16000)
    lines = ["id,label,split,seen,heard"]
    lines += [f"{n},{'ab'[n % 2]},{('train', 'test')[n // 2]},{n}.mp4,{n}.mp4" for n in range(4)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    kinds = {"seen": "video", "heard": "audio"}
    sizes = Sizes(image_size=16, seconds=0.5, frames=2)
    prepared = manifest.prepare(
        tmp_path / "table.csv", tmp_path, tmp_path / "out", kinds, sizes=sizes
    )
    assert compare(prepared, tmp_path) == 2 * 2


def test_a_recording_of_another_rate_is_resampled(av_digits_dir: Path, tmp_path: Path) -> None:
    """A tone of 697 Hz has its energy in the same mel band at 8 and at 16 kHz."""
    audio, recipe = read_spec(av_digits_dir).modalities[0], read_recipes(av_digits_dir)["audio"]
    bands = []
    for rate in (8000, 16000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, media.tone(0.5, rate, 697, noise=0), rate)
        made = make_sample(Source(path), audio, recipe)
        bands.append(int(made[0, :, 5:15].astype(float).mean(axis=1).argmax()))
    assert bands[0] == bands[1]


def test_images_of_any_size_and_depth(av_digits_dir: Path, tmp_path: Path) -> None:
    """A wide image is padded with black above and below; 16 bits are as good as 8."""
    visual, recipe = read_spec(av_digits_dir).modalities[1], read_recipes(av_digits_dir)["visual"]
    Image.fromarray(np.full((28, 56), 255, np.uint8)).save(tmp_path / "wide.png")
    made = make_sample(Source(tmp_path / "wide.png"), visual, recipe)[0]
    assert made[:6].max() == made[-6:].max() == 0
    assert made[8:20].min() == pytest.approx(1, abs=1e-3)
    Image.fromarray(np.full((28, 28), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert make_sample(Source(tmp_path / "deep.png"), visual, recipe).min() == 1


def test_what_cannot_be_made_says_so(av_digits_dir: Path, tmp_path: Path) -> None:
    audio, recipe = read_spec(av_digits_dir).modalities[0], read_recipes(av_digits_dir)["audio"]
    with pytest.raises(
        FileNotFoundError, match=r"none\.wav: no such file; it was to become modality 'audio'"
    ):
        make_sample(Source(tmp_path / "none.wav"), audio, recipe)
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(UnreadableFileError, match=r"text\.wav: not decodable"):
        make_sample(Source(tmp_path / "text.wav"), audio, recipe)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    with pytest.raises(UnreadableFileError, match="silent"):
        make_sample(Source(tmp_path / "silent.wav"), audio, recipe)
    soundfile.write(tmp_path / "tone.wav", media.tone(1, 8000, 697), 8000)
    with pytest.raises(
        PrepError, match=r"became \[1, 16, 33\], but modality 'audio' is \[1, 32, 33\]"
    ):
        make_sample(Source(tmp_path / "tone.wav"), audio, {**recipe, "bands": 16})


@pytest.mark.parametrize(
    "recipe", [{}, {"maker": "magic"}, {"maker": "photo"}, {"maker": "photo", "size": 1, "x": 2}]
)
def test_unknown_recipes_are_refused(recipe: dict) -> None:
    with pytest.raises(PrepError, match="recipe of 'visual'"):
        maker_of("visual", recipe)


def test_every_maker_has_a_medium_that_files_are_told_by() -> None:
    from data_prep.files.makers import MEDIA

    assert {medium for maker in MAKERS.values() for medium in maker.media} == MEDIA.keys()


def test_a_file_whose_name_looks_like_a_part_is_itself(tmp_path: Path) -> None:
    odd = tmp_path / "clip#1-2s"
    assert Source.parse(str(odd)) == Source(tmp_path / "clip", (1.0, 2.0))
    odd.touch()
    assert Source.parse(str(odd)) == Source(odd)


@pytest.mark.parametrize("content", ["{", "[]", '{"audio": 1}'])
def test_broken_recipes_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipes.json").write_text(content)
    with pytest.raises(SchemaError, match=r"recipes\.json"):
        read_recipes(tmp_path)


def test_directories_of_earlier_releases_have_none(tmp_path: Path) -> None:
    assert read_recipes(tmp_path) == {}


def test_recipes_are_json_that_a_model_file_can_hold(av_digits_dir: Path) -> None:
    assert json.loads((av_digits_dir / "recipes.json").read_text()) == read_recipes(av_digits_dir)
