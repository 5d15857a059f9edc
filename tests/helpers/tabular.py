"""Small archives with tables and real media.

CrisisMMD in exactly its layout, and a manifest of three modalities.
"""

import csv
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "flood", "help", "##ing", "people", "in", "hous", "##ton", "fire",
    "bridge", "closed", "love", "this", "song", "new", "shoes", "water", "roads", "#", ":", "!", "'", '"', ",", ".",
)  # fmt: skip
CRISISMMD_COLUMNS = ("event_name", "tweet_id", "image_id", "tweet_text", "image", "label", "label_text", "label_image",
                     "label_text_image")  # fmt: skip
NEWS = (
    "RT @RedCross: Flood in Houston https://t.co/aB1cD2 People help",
    'Roads closed, "bridge" in water https://t.co/xY9 http://t.co/zz1 help!',
    "Fire in Houston\u2028Helping people",  # a line separator, which is no end of a row
)
CHATTER = ("I love this song @you_2 www.example.org/new?x=1 !", "New shoes!", "RT love this")
COLORS = {"informative": (200, 40, 30), "not_informative": (20, 60, 210)}


def write_tokenizer(directory: Path) -> Path:
    """Write the vocabulary of a tiny BERT tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return directory


def write_photo(
    path: Path, color: tuple[int, int, int], size: tuple[int, int] = (64, 48), seed: int = 0
) -> None:
    """Write an image of one colour with some noise; JPEG or PNG, as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-8, 9, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


def crisismmd_row(tweet: int, number: int, label: str, text: str) -> dict[str, str]:
    """Return a row of a split file."""
    event, date = (
        ("hurricane_harvey", "9_9_2017") if tweet % 2 else ("california_wildfires", "10_10_2017")
    )
    image_id = f"{tweet}_{number}"
    labels = {column: label for column in CRISISMMD_COLUMNS if column.startswith("label")}
    image = f"data_image/{event}/{date}/{image_id}.jpg"
    return {
        "event_name": event,
        "tweet_id": str(tweet),
        "image_id": image_id,
        "tweet_text": text,
        "image": image,
    } | labels


def write_split(raw: Path, name: str, rows: list[dict[str, str]], end: str = "\n") -> Path:
    """Write a split file, without quoting."""
    path = raw / f"task_informative_text_img_agreed_lab_{name}.tsv"
    lines = [
        "\t".join(CRISISMMD_COLUMNS),
        *("\t".join(row[column] for column in CRISISMMD_COLUMNS) for row in rows),
    ]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def crisismmd_rows(count: int, start: int, multiple: int = 4) -> list[dict[str, str]]:
    """Return rows of ``count`` tweets, both classes in turn.

    Every ``multiple``-th has two images.
    """
    rows = []
    for tweet in range(start, start + count):
        label, texts = (("informative", NEWS), ("not_informative", CHATTER))[tweet % 2]
        rows += [
            crisismmd_row(tweet, n, label, texts[tweet % 3])
            for n in range(2 if tweet % multiple == 0 else 1)
        ]
    return rows


def write_crisismmd(
    raw: Path, train: int = 24, dev: int = 6, test: int = 8
) -> dict[str, list[dict[str, str]]]:
    """Write an archive whose every row can be used.

    Return the rows of each split file (train, dev, test).

    Parameters
    ----------
    raw
        Where to.
    train
        Tweets.
    dev
        Tweets.
    test
        Tweets; its file has CRLF line ends.
    """
    first = 917791044158185473
    splits = {
        "train": crisismmd_rows(train, first),
        "dev": crisismmd_rows(dev, first + train),
        "test": crisismmd_rows(test, first + train + dev),
    }
    for name, rows in splits.items():
        for number, row in enumerate(rows):
            size = ((64, 48), (40, 90), (50, 50))[number % 3]
            write_photo(raw / row["image"], COLORS[row["label"]], size, seed=number)
        write_split(raw, name, rows, "\r\n" if name == "test" else "\n")
    return splits


MANIFEST_MODALITIES = {"photo": "image", "motion": "series", "voice": "audio"}


def write_manifest(raw: Path, count: int = 60) -> Path:
    """Write three modalities and their manifest ``samples.csv``; return its path.

    Labels are "fall" and "walk" in turn. A third is for testing; of ten samples one has no
    voice, one no motion and one no photo. A series of "fall" rises, of "walk" it swings; a voice
    of "fall" is higher.
    """
    rows = []
    for number in range(count):
        falls, name = number % 2 == 0, f"{number:03}"
        cells = {"photo": f"photos/{name}.png", "motion": f"motion/{name}.{('csv', 'npy')[number % 4 // 2]}",
                 "voice": f"voices/{name}.wav"}  # fmt: skip
        missing = {2: "voice", 5: "motion", 7: "photo"}.get(number % 10)
        cells |= {missing: ""} if missing else {}
        if cells["photo"]:
            write_photo(
                raw / cells["photo"],
                (200, 90, 30) if falls else (30, 90, 200),
                (40, 30),
                seed=number,
            )
        if cells["motion"]:
            _write_motion(raw / cells["motion"], falls, 40 + number)
        if cells["voice"]:
            _write_voice(raw / cells["voice"], 880 if falls else 330, 8000 + 100 * number)
        split = ("train", "train", "test")[number // 2 % 3]
        rows.append({"id": f"s{name}", "label": "fall" if falls else "walk", "split": split,
                     "group": f"person{number % 5}", **cells})  # fmt: skip
    path = raw / "samples.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def _write_motion(path: Path, falls: bool, length: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.linspace(0, 1, length)
    series = np.stack([time if falls else np.sin(20 * time), np.ones(length), 9.81 - time], axis=1)
    if path.suffix == ".npy":
        np.save(path, series)
    else:
        np.savetxt(path, series, delimiter=",", header="x,y,z", comments="")


def _write_voice(path: Path, frequency: int, samples: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.4 * np.sin(2 * np.pi * frequency * np.arange(samples) / 16000)
    soundfile.write(path, tone, 16000, subtype="PCM_16")
