"""How much longer than its training a round of ``fedcmi run`` takes on Ray, and whether that grows
with the nodes.

Run it as ``python tests/benchmarks/simulation.py``. Every row is a real run of the command line:

* overhead: the time from one line of metrics.jsonl to the next (sampling, messages, training,
  aggregation, evaluation, checkpoint), over the sum of the seconds that training took on the
  nodes (``train_seconds``) divided by the number of actors, which is that of cores; means over
  the rounds after the first. Even partitions, all nodes train;
* growth: 4 nodes a round of more and more, with as many samples each; time of a round and memory
  (resident set) of the process that runs the server, after the first round and after the last.

The first round starts the actors, which import torch, and asks every node what it owns; it is
stated apart.
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

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data_prep.pipeline.plan import Plan, Planned, Stream  # noqa: E402
from data_prep.pipeline.prepare import prepare_plan  # noqa: E402
from server_app.run.directory import read_metrics  # noqa: E402

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
    ends: dict[int, float] = field(default_factory=dict)
    """Round -> Unix time at which its line was written, where the next one was not there too
    when that was seen."""
    memory: dict[int, int] = field(default_factory=dict)
    """Round -> bytes that the server's process had then."""
    trained: list[float] = field(default_factory=list)
    """Seconds that the nodes trained in each round, added up."""
    server: psutil.Process | None = None

    @property
    def first(self) -> float:
        """Return the seconds from the command to the end of the first round that was seen
        to end.
        """
        return self.ends[self.timed[0]] - self.started

    @property
    def timed(self) -> tuple[int, int]:
        """Return the rounds between whose ends time is taken: the first one and the last."""
        return min(round_ for round_ in self.ends if round_ > 0), max(self.ends)

    @property
    def round_seconds(self) -> float:
        """Return the mean time of a round after the first."""
        begin, end = self.timed
        return (self.ends[end] - self.ends[begin]) / (end - begin)

    @property
    def training_seconds(self) -> float:
        """Return the mean time that training would take these rounds with all actors busy."""
        begin, end = self.timed
        return sum(self.trained[begin + 1 : end + 1]) / (end - begin) / len(os.sched_getaffinity(0))


def made_up(folder: Path, train: int, size: int) -> Path:
    """Write a prepared directory of images and spectrograms with one channel and no sense."""
    shape = (1, size, size)

    def noise(seed: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def plan() -> Plan:
        kinds = zip(MODALITIES, ("spectrogram", "image"), strict=True)
        streams = [Stream(name, kind, shape, "float32", noise, {}) for name, kind in kinds]
        samples = []
        for number, (split, count) in enumerate((("train", train), ("test", TEST_SAMPLES))):
            for row in range(count):
                jobs = {name: (number, row, column) for column, name in enumerate(MODALITIES)}
                sources = dict.fromkeys(MODALITIES, "made up")
                samples.append(Planned(str(row), row % CLASSES, str(row), split, jobs, sources))
        return Plan([str(label) for label in range(CLASSES)], streams, samples)

    return prepare_plan(folder / f"made-up-{train}-{size}", "made-up", {"size": size}, plan)


def simulate(folder: Path, data: Path | str, nodes: int, rounds: int, keys: Keys) -> Watched:
    """Run a federation and watch it."""
    run_dir = folder / f"run-{len(list(folder.iterdir()))}"
    command = [
        sys.executable,
        "-m",
        "server_app.commands.main",
        "run",
        "--data",
        str(data),
        "--run-dir",
        str(run_dir),
    ]
    command += ["--num-nodes", str(nodes), "--rounds", str(rounds)]
    command += [
        word
        for key, value in {"partition": "iid", **keys}.items()
        for word in ("--set", f"{key}={value}")
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    seen = Watched(time.time())
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            look(process.pid, run_dir / "metrics.jsonl", seen)
        if process.returncode != 0:
            log.seek(0)
            raise SystemExit(log.read())
    seen.trained = [sum(record["train_seconds"].values()) for record in read_metrics(run_dir)]
    return seen


def look(pid: int, metrics: Path, seen: Watched) -> None:
    """Note when a new line was written, and the server's memory then."""
    if not metrics.is_file():
        return
    written = metrics.stat().st_mtime
    newest = metrics.read_bytes().count(b"\n") - 1
    if newest in seen.ends or metrics.stat().st_mtime != written:
        return
    seen.ends[newest] = written
    if seen.server is None:
        below = psutil.Process(pid).children(recursive=True)
        seen.server = next(
            p for p in below if any(Path(a).name == "flwr-simulation" for a in p.cmdline())
        )
    seen.memory[newest] = seen.server.memory_info().rss


def overhead(label: str, seen: Watched) -> None:
    """Print how much longer than training rounds take."""
    times = f"{seen.first:8.1f} s{seen.round_seconds:8.2f} s{seen.training_seconds:8.2f} s"
    say(f"{label:<34}{times}{seen.round_seconds / seen.training_seconds:8.2f} x")


def growth(folder: Path, sizes: list[int], rounds: int) -> None:
    """Print the time of a round and the server's memory as the number of nodes grows."""
    say(
        f"\n{SAMPLED} nodes a round of {'':<15}{'first':>8}  {'a round':>8}  {'memory':>8}  "
        f"{'at the end':>8}"
    )
    least = 0.0
    for nodes in sizes:
        keys = {
            "min-train-nodes": SAMPLED,
            "fraction-train": SAMPLED / nodes,
            "min-partition-size": NODE_SAMPLES,
        }
        keys["wait-timeout"] = 60 + nodes  # the actors deal the data before they answer
        seen = simulate(folder, made_up(folder, nodes * NODE_SAMPLES, 16), nodes, rounds, keys)
        least = least or seen.round_seconds
        early, late = (seen.memory[round_] / 1e6 for round_ in seen.timed)
        row = (
            f"{nodes:<34}{seen.first:8.1f} s{seen.round_seconds:8.2f} s{early:7.0f} MB{late:7.0f} "
            "MB"
        )
        say(f"{row}{seen.round_seconds / least:8.2f} x the first row's")


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
    parser.add_argument(
        "--samples", type=int, default=256, help="of each node of ResNet-18; 320 are CREMA-D's"
    )
    parser.add_argument("--nodes", default="10,100,1000", help="of the growing federations")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="fedcmi-simulation-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        say(
            f"{len(os.sched_getaffinity(0))} actors, 10 nodes{'':<11}{'first':>8}  {'a round':>8} "
            f" {'training':>8}"
        )
        everyone = {"fraction-train": 1.0}
        if options.only in (None, "small-cnn"):
            overhead(
                "small CNN, av-digits, 3 epochs",
                simulate(folder, "av-digits", 10, options.rounds, everyone),
            )
        if options.only in (None, "resnet18"):
            large = {
                "encoder": "resnet18",
                "embedding-dim": 512,
                "normalization": "batch",
                **everyone,
            }
            data = made_up(folder, 10 * options.samples, 64)
            seen = simulate(folder, data, 10, options.large_rounds, large)
            overhead(f"ResNet-18, {options.samples} of 64 x 64", seen)
        if options.only in (None, "growth"):
            growth(folder, [int(nodes) for nodes in options.nodes.split(",")], options.rounds)


if __name__ == "__main__":
    main()
