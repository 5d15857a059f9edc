"""How fast rounds are with a frozen trunk's features kept on the node, and without.

Run it as ``python tests/benchmarks/features.py``; it needs the project with its extra ``text``,
and nothing is fetched. Subject: a trunk of ViT-Tiny's size with random weights (``encoder =
"auto:DIR"``), frozen, images of 224 pixels, FedAvg, one node, 10 local epochs. Two runs take turns
on one thread, and each round's time is what the node reports of its training. The first round with
kept features computes them; the weights after the last round are compared.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "helpers")]

import kinds  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from federated import Federated, federate  # noqa: E402

from fedcmi_flwr.data.schema import ModalitySpec  # noqa: E402


def write_trunk(directory: Path, size: int) -> Path:
    """Write a ViT-Tiny with random weights, and its processor."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    ViTModel(ViTConfig(**sizes, image_size=size)).save_pretrained(directory)
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(directory)
    return directory


def seconds(run: Federated, server_round: int) -> float:
    """Run one round; return how long training took on its node."""
    run.round(server_round)
    if run.strategy.report.refused:
        raise RuntimeError(f"the node was refused: {run.strategy.report.refused}")
    return float(run.strategy.report.train_seconds[0])


def line(what: str, times: dict[str, float], epochs: int) -> str:
    """Return a row: seconds of an epoch of both runs, and their ratio."""
    plain, kept = times["off"] / epochs, times["auto"] / epochs
    return (
        f"{what:9}  an epoch {plain:.3f} s with the trunk, {kept:.3f} s with kept features: "
        f"{plain / kept:.1f} x"
    )


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and print ratios per local epoch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["FEDCMI_CACHE"] = str(place / "cache")
        image = ModalitySpec("image", "image", (3, given.size, given.size), "uint8", 120.0, 60.0)
        data = kinds.prepare(place / "data", image, count=given.samples)
        options = {"encoder": f"auto:{write_trunk(place / 'vit', given.size)}", "freeze": "image", "method": "fedavg",
                   "local-epochs": given.epochs, "batch-size": 8, "torch-threads": 1}  # fmt: skip
        runs = {mode: federate(place / mode, data, ["image"], **options, **{"features-cache": mode})
                for mode in ("off", "auto")}  # fmt: skip

        say(
            f"{given.samples} images of {given.size} pixels, {given.epochs} local epochs, one "
            "thread"
        )
        totals = dict.fromkeys(runs, 0.0)
        for server_round in range(1, given.rounds + 1):
            times = {mode: seconds(run, server_round) for mode, run in runs.items()}
            totals = {mode: totals[mode] + times[mode] for mode in runs}
            say(line(f"round {server_round}", times, given.epochs))

        say(line("whole run", totals, given.epochs * given.rounds))
        pairs = [(runs["off"].arrays[name], value) for name, value in runs["auto"].arrays.items()]
        worst = max(float(np.abs(plain - kept).max()) for plain, kept in pairs)
        say(f"largest difference of a weight: {worst:.1e}")


if __name__ == "__main__":
    main()
