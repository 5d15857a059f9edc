"""Three devices from raw files, by the commands and the nodes.toml of
server_app/guides/devices.md.
"""

import re
from pathlib import Path

import commands
import media
import pytest
import soundfile

from client_app.app import app as client_app
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from server_app.app import run as run_server
from server_app.deploy.nodes_toml import read_nodes_toml
from server_app.launch.start import resolve
from server_app.run.directory import read_metrics

ROOT = Path(__file__).parents[3]
CLASSES = ("bark", "rain", "siren")
SMALL = "--seconds 0.5 --frames 2 --image-size 16 --workers 1"


def write_recordings(
    raw: Path, classes: tuple[str, ...], split: str, kinds: tuple[str, ...], count: int = 6
) -> None:
    """Write sounds, videos and their manifest.

    ``count`` samples of each class, all in one split.
    """
    (raw / "files").mkdir(parents=True)
    lines = [",".join(["id", "label", "split", *kinds])]
    for label in classes:
        place = CLASSES.index(label)
        for number in range(count):
            name = f"files/{label}{number}"
            if "audio" in kinds:
                soundfile.write(
                    raw / f"{name}.wav", media.tone(0.6, 16000, 200 + 300 * place + number), 16000
                )
            if "visual" in kinds:
                media.write_video(
                    raw / f"{name}.mp4", 6, "mpeg4", media.COLOURS[place], size=(32, 32)
                )
            cells = {"audio": f"{name}.wav", "visual": f"{name}.mp4"}
            lines.append(
                ",".join([f"{label}{number}", label, split, *(cells[kind] for kind in kinds)])
            )
    (raw / "samples.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_two_rounds_of_devices_that_prepared_their_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has test recordings of two of three classes.

    One device has two classes, one sound alone.
    """
    monkeypatch.chdir(tmp_path)
    write_recordings(tmp_path / "SERVER", CLASSES[:2], "test", ("audio", "visual"), 2)
    write_recordings(tmp_path / "EDGE1", CLASSES[1:], "train", ("audio", "visual"))
    write_recordings(tmp_path / "EDGE2", CLASSES, "train", ("audio", "visual"), 4)
    write_recordings(tmp_path / "EDGE3", CLASSES, "train", ("audio",), 4)

    guide = (ROOT / "server_app" / "guides" / "devices.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)).splitlines()
    for line in (line for line in lines if line.startswith("fedcmi prep ")):
        own_sizes = "--for server" in line
        commands.line(f"{line} {SMALL}" if own_sizes else line)

    (toml,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "nodes.toml").write_text(toml, encoding="utf-8")
    plan = read_nodes_toml(tmp_path / "nodes.toml", secure=True)
    nodes = [
        {
            "partition-id": node.partition_id,
            "modalities": "+".join(node.modalities),
            "data": node.data,
        }
        for node in plan.nodes
    ]
    names = [read_spec(Path(node.data)).modality_names for node in plan.nodes]
    assert names == [("audio", "visual"), ("audio", "visual"), ("audio",)]

    small = [
        "fraction-train=1.0",
        "local-epochs=1",
        "batch-size=4",
        "embedding-dim=8",
        "data-set=manifest",
    ]
    raw = resolve(None, {"data": plan.data, "num-server-rounds": 2}, small) | {
        "run-dir": str(tmp_path / "run")
    }
    run_server(read_run_config(raw), LocalGrid(client_app, nodes, raw), lambda: None, False)
    records = read_metrics(tmp_path / "run")
    assert [record["refused"] for record in records[1:]] == [[], []]
    assert sum(records[2]["counts"]["fused"]["count"]) == 4
