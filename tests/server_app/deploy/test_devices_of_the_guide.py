"""From raw files to a trained federation, by the commands of server_app/guides/devices.md.

Every command of the page is run as it stands, in the page's order, in a process of its own. Four
folders hold the raw files of a server and of three devices, of which one has sound and video, one
sound alone and one video alone. `pytest -s` prints how long each command took.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import media
import pytest
import soundfile
from story import ENVIRONMENT, FEDCMI, left_running

from fedcmi_flwr.data.schema import read_spec
from server_app.run.directory import read_metrics

GUIDE = Path(__file__).parents[3] / "server_app" / "guides" / "devices.md"
CLASSES = ("bark", "rain", "siren")
BOTH = ("audio", "visual")
LONG = 900.0
"""Seconds that no command of the page takes, on a busy machine either."""


def write_recordings(
    raw: Path, classes: tuple[str, ...], split: str, kinds: tuple[str, ...], count: int
) -> None:
    """Write sounds, videos and their table, ``count`` samples of each class, all in one split."""
    (raw / "files").mkdir(parents=True)
    lines = [",".join(["id", "label", "split", *kinds])]
    for label in classes:
        place = CLASSES.index(label)
        for number in range(count):
            name = f"files/{label}{number}"
            sound, video = raw / f"{name}.wav", raw / f"{name}.mp4"
            if "audio" in kinds:
                soundfile.write(sound, media.tone(1.1, 16000, 200 + 300 * place + number), 16000)
            if "visual" in kinds:
                media.write_video(video, 6, "mpeg4", media.COLOURS[place], size=(64, 64))

            cells = {"audio": f"{name}.wav", "visual": f"{name}.mp4"}
            lines.append(
                ",".join([f"{label}{number}", label, split, *(cells[kind] for kind in kinds)])
            )

    (raw / "samples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Page:
    """The page, followed in a working directory."""

    root: Path
    took: dict[str, float] = field(default_factory=dict)
    """Command -> seconds, in order."""
    said: dict[str, str] = field(default_factory=dict)
    """Command -> its output."""

    def follow(self) -> None:
        """Do what the page's blocks say, one after another."""
        text = GUIDE.read_text(encoding="utf-8")
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if language == "toml":
                (self.root / "nodes.toml").write_text(block, encoding="utf-8")
                continue

            for line in block.splitlines():
                self.run(line)

    def run(self, line: str) -> None:
        """Run a command, which must succeed."""
        program, *arguments = shlex.split(line)
        assert program == "fedcmi", line
        begun = time.monotonic()
        done = subprocess.run(
            [*FEDCMI, *arguments],
            cwd=self.root,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG,
        )
        self.took[line] = time.monotonic() - begun
        self.said[line] = done.stdout
        assert done.returncode == 0, f"{line}\n{done.stdout}"

    def times(self) -> str:
        """Return the seconds of each command, and of all."""
        rows = [f"{seconds:7.1f} s  {line}" for line, seconds in self.took.items()]
        return "\n".join([*rows, f"{sum(self.took.values()):7.1f} s  all"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return the page, followed to its end."""
    root = tmp_path_factory.mktemp("from raw files")
    write_recordings(root / "SERVER", CLASSES[:2], "test", BOTH, 6)
    write_recordings(root / "EDGE1", CLASSES[1:], "train", BOTH, 10)
    write_recordings(root / "EDGE2", CLASSES, "train", ("audio",), 10)
    write_recordings(root / "EDGE3", CLASSES, "train", ("visual",), 10)

    page = Page(root)
    try:
        page.follow()
        sys.stdout.write(f"\n{page.times()}\n")
        yield page
    finally:
        if (root / "deployment" / "deployment.json").is_file():
            page.run("fedcmi deploy down deployment")


def test_each_prepared_its_own_files_as_the_server_described(page: Page) -> None:
    """The server's test recordings are of two of three classes, the first device's of two."""
    names = {"server": BOTH, "edge-1": BOTH, "edge-2": ("audio",), "edge-3": ("visual",)}
    specs = {name: read_spec(page.root / f"{name}-data") for name in names}
    assert {name: spec.modality_names for name, spec in specs.items()} == names
    assert {spec.classes for spec in specs.values()} == {CLASSES}
    assert {name: tuple(spec.splits) for name, spec in specs.items()} == {
        "server": ("test",), "edge-1": ("train",), "edge-2": ("train",), "edge-3": ("train",),
    }  # fmt: skip


def test_all_three_trained_and_the_model_has_learnt(page: Page) -> None:
    *_, last = records = read_metrics(page.root / "runs" / "edge")
    for record in records[1:]:
        assert (record["refused"], record["failed"]) == ([], "")
        assert record["owners"] == {"audio": [0, 1], "visual": [0, 2], "shared": [0, 1, 2]}

    assert sum(last["counts"]["fused"]["count"]) == 12
    assert last["accuracy"]["fused"] >= 0.75  # of 12 samples: by chance in less than 1 of 200 runs


def test_status_knew_all_processes_and_down_left_none(page: Page) -> None:
    said = page.said["fedcmi deploy status deployment"]
    assert [name for name in ("superlink", "proxy", "registrar") if name not in said] == []
    assert [name for name in ("edge-1", "edge-2", "edge-3") if name not in said] == []
    audit = (page.root / "deployment" / "rehearsal" / "audit.jsonl").read_text(encoding="utf-8")
    joined = [json.loads(line) for line in audit.splitlines()]
    assert sorted(entry["node"] for entry in joined if entry["what"] == "register") == [
        "edge-1", "edge-2", "edge-3",
    ]  # fmt: skip
    assert left_running(page.root) == []


def test_no_raw_file_and_no_sample_left_its_folder(page: Page) -> None:
    """What the devices were brought, and what came back, are the page's own files."""
    brought = json.loads((page.root / "federation.json").read_text(encoding="utf-8"))
    assert "bark0" not in json.dumps(brought)
    kept = [
        path
        for path in (page.root / "deployment").rglob("*")
        if path.suffix in (".wav", ".mp4", ".npy")
    ]
    assert kept == []
