"""How much longer than its training a round of ``fedcmi run`` takes on Ray, and whether that grows with the nodes.

Run it as ``python tests/benchmarks/simulation.py``. Every row is a real run of the command line:

* overhead: the time from one line of metrics.jsonl to the next (sampling, messages, training, aggregation, evaluation,
  checkpoint), over the sum of the seconds that training took on the nodes (``train_seconds``) divided by the number of
  actors, which is that of cores; a median over the rounds after the first. Even partitions, all nodes train;
* growth: 4 nodes a round of more and more, with as many samples each; time of a round and memory (resident set) of the
  process that runs the server, after round 2 and after the last.

The first round starts the actors, which import torch, and asks every node what it owns; it is stated apart.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data_prep.writer import Samples, write_prepared, write_split  # noqa: E402
from fedcmi_flwr.schema import DatasetSpec, ModalitySpec  # noqa: E402
from server_app.report import read_metrics  # noqa: E402

MODALITIES, CLASSES, TEST_SAMPLES = ("audio", "visual"), 4, 64
SAMPLED = 4
"""Nodes a round of the growing federations."""
NODE_SAMPLES = 16
"""Of each of their nodes."""
LOOK_SECONDS = 0.02
Keys = Mapping[str, str | int | float]


@dataclass
class Watched:
    """A run as it was seen from outside."""

    started: float
    ends: list[float] = field(default_factory=list)
    """Unix time at which each round's line was written, round 0 first."""
    memory: list[int] = field(default_factory=list)
    """Bytes that the server's process had then."""
    trained: list[float] = field(default_factory=list)
    """Seconds that the nodes trained in each round, added up."""

    @property
    def rounds(self) -> list[float]:
        """Return the seconds of each round after the first."""
        return [end - begin for begin, end in zip(self.ends[1:], self.ends[2:], strict=False)]


def made_up(folder: Path, train: int, size: int) -> Path:
    """Write a prepared directory of images and spectrograms with one channel and no sense."""
    specs = tuple(
        ModalitySpec(name, kind, (1, size, size), "float32")
        for name, kind in zip(MODALITIES, ("spectrogram", "image"), strict=True)
    )

    def build(directory: Path) -> DatasetSpec:
        rng = np.random.default_rng(0)
        counts = {"train": train, "test": TEST_SAMPLES}
        for split, count in counts.items():
            arrays = {name: rng.standard_normal((count, 1, size, size), dtype=np.float32) for name in MODALITIES}
            ids, sources = [str(i) for i in range(count)], dict.fromkeys(MODALITIES, ["made up"] * count)
            write_split(directory, split, Samples(ids, np.arange(count) % CLASSES, ids, sources, arrays))
        names = tuple(str(label) for label in range(CLASSES))
        return DatasetSpec("made-up", "classification", names, specs, counts, {"size": size}, {})

    return write_prepared(folder / f"made-up-{train}-{size}", "made-up", {"size": size}, build)


def simulate(folder: Path, data: Path | str, nodes: int, rounds: int, keys: Keys) -> Watched:
    """Run a federation and watch it."""
    run_dir = folder / f"run-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "fedcmi_flwr.cli", "run", "--data", str(data), "--run-dir", str(run_dir)]
    command += ["--num-nodes", str(nodes), "--rounds", str(rounds)]
    command += [word for key, value in {"partition": "iid", **keys}.items() for word in ("--set", f"{key}={value}")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    seen = Watched(time.time())
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            look(process.pid, run_dir / "metrics.jsonl", seen)
        if process.returncode != 0:
            log.seek(0)
            raise SystemExit(log.read())
    records = read_metrics(run_dir)
    if len(records) != len(seen.ends):
        raise SystemExit(f"{run_dir}: rounds followed each other faster than they are looked at; train for longer.")
    seen.trained = [sum(record["train_seconds"].values()) for record in records]
    return seen


def look(pid: int, metrics: Path, seen: Watched) -> None:
    """Note when a new line was written, and the server's memory then."""
    if not metrics.is_file() or metrics.stat().st_mtime in seen.ends:
        return
    seen.ends.append(metrics.stat().st_mtime)
    below = psutil.Process(pid).children(recursive=True)
    seen.memory += [p.memory_info().rss for p in below if any(Path(a).name == "flwr-simulation" for a in p.cmdline())]


def overhead(label: str, seen: Watched) -> None:
    """Print how much longer than training rounds take."""
    actors = len(os.sched_getaffinity(0))
    ideal = [seconds / actors for seconds in seen.trained[2:]]
    ratio = median(round_ / least for round_, least in zip(seen.rounds, ideal, strict=True))
    first = seen.ends[1] - seen.started
    say(f"{label:<34}{first:8.1f} s{median(seen.rounds):8.2f} s{median(ideal):8.2f} s{ratio:8.2f} x")


def growth(folder: Path, sizes: list[int], rounds: int) -> None:
    """Print the time of a round and the server's memory as the number of nodes grows."""
    say(f"\n{SAMPLED} nodes a round of {'':<15}{'first':>8}  {'a round':>8}  {'memory':>8}  {'at the end':>8}")
    least = 0.0
    for nodes in sizes:
        keys = {"min-train-nodes": SAMPLED, "fraction-train": SAMPLED / nodes, "min-partition-size": NODE_SAMPLES}
        keys["wait-timeout"] = 60 + nodes  # the actors deal the data before they answer
        seen = simulate(folder, made_up(folder, nodes * NODE_SAMPLES, 16), nodes, rounds, keys)
        least = least or median(seen.rounds)
        early, late = (seen.memory[place] / 1e6 for place in (2, -1))
        share = median(seen.rounds) / least
        first = seen.ends[1] - seen.started
        say(
            f"{nodes:<34}{first:8.1f} s{median(seen.rounds):8.2f} s{early:7.0f} MB{late:7.0f} MB{share:8.2f} x "
            f"the first row's"
        )


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("small-cnn", "resnet18", "growth"), help="default: all")
    parser.add_argument("--rounds", type=int, default=6, help="of the small CNN")
    parser.add_argument("--large-rounds", type=int, default=3, help="of ResNet-18")
    parser.add_argument("--nodes", default="10,100,1000", help="of the growing federations")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedcmi-simulation-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        say(f"{len(os.sched_getaffinity(0))} actors, 10 nodes{'':<11}{'first':>8}  {'a round':>8}  {'training':>8}")
        everyone = {"fraction-train": 1.0}
        if options.only in (None, "small-cnn"):
            overhead("small CNN, av-digits, 3 epochs", simulate(folder, "av-digits", 10, options.rounds, everyone))
        if options.only in (None, "resnet18"):
            large = {"encoder": "resnet18", "embedding-dim": 512, "normalization": "batch", **everyone}
            seen = simulate(folder, made_up(folder, 640, 64), 10, options.large_rounds, large)
            overhead("ResNet-18, 64 x 64, 3 epochs", seen)
        if options.only in (None, "growth"):
            growth(folder, [int(nodes) for nodes in options.nodes.split(",")], options.rounds)


if __name__ == "__main__":
    main()
