"""200 rounds in one process with a fifth of the replies failing.

Nothing grows, and everything is counted.
"""

import gc
import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from flwr.app import Array, Context, Message

from client_app.app import app as client_app
from fedcmi_flwr import wire
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from server_app.app import run
from server_app.launch.start import resolve
from server_app.run.directory import read_metrics

ROUNDS, WARM_UP, NODES = 200, 50, 4
FAILING = 0.2
KINDS = ("raise", "silent", "nan", "late", "foreign")
WORDS = {
    "raise": "disk is full",
    "nan": "holds NaN or Inf",
    "late": "or answered before",
    "silent": "No reply of node",
}
SETTINGS = {"num-server-rounds": ROUNDS, "local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "method": "scaffold",
            "fraction-train": 1.0, "partition": "iid", "min-partition-size": 2, "multimodal-ratio": 0.5,
            "encoder": "small-cnn", "fusion": "concat", "device": "cpu",
            "checkpoint-every": 50, "normalization": "group"}  # fmt: skip
STRANGER = 9999


class FlakyGrid(LocalGrid):
    """A grid whose train replies fail at random.

    Nodes raise or send NaN, replies are lost, late or a stranger's.
    """

    def __init__(self, node_configs: Sequence[dict[str, Any]], raw: dict[str, Any]) -> None:
        super().__init__(self._flaky, node_configs, raw)  # type: ignore[arg-type]  # all that a grid does is to call it
        self.rng = np.random.default_rng(5)
        self.injected: list[dict[int, str]] = []
        """Per round: partition id -> what went wrong with its reply."""
        self.delivered_late: list[int] = []
        """Per round: replies of an earlier round."""
        self._late: list[Message] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let some of the replies fail; those to queries do not."""
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != "train":
            return super().send_and_receive(messages)
        self.injected.append({})
        for message in messages:
            if self.rng.random() < FAILING:
                part = self.contexts[message.metadata.dst_node_id].node_config["partition-id"]
                self.injected[-1][int(part)] = str(self.rng.choice(KINDS))
        return self._delivered(
            [self._changed(reply) for reply in super().send_and_receive(messages)]
        )

    def _kind(self, node: int) -> str:
        return self.injected[-1].get(int(self.contexts[node].node_config["partition-id"]), "")

    def _flaky(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and self._kind(context.node_id) == "raise":
            raise OSError("disk is full")
        return client_app(message=message, context=context)

    def _changed(self, reply: Message) -> Message:
        kind = self._kind(reply.metadata.src_node_id)
        if kind == "nan":
            arrays = reply.content["arrays"]
            arrays["shared/float32"] = Array(arrays["shared/float32"].numpy() * np.float32("nan"))
        if kind == "foreign":
            asked = wire.query_message(STRANGER, 1)
            asked.metadata.__dict__["_message_id"] = "1"
            return Message(reply.content, reply_to=asked)
        return reply

    def _delivered(self, replies: list[Message]) -> list[Message]:
        """Return what arrives.

        Not what is silent or late, but earlier late replies of nodes that have answered.
        """
        here = [
            r
            for r in replies
            if r.metadata.src_node_id == STRANGER
            or self._kind(r.metadata.src_node_id) not in ("silent", "late")
        ]
        answered = {reply.metadata.src_node_id for reply in here}
        now = [reply for reply in self._late if reply.metadata.src_node_id in answered]
        late = [
            r
            for r in replies
            if r.metadata.src_node_id != STRANGER and self._kind(r.metadata.src_node_id) == "late"
        ]
        self._late = [reply for reply in self._late if reply not in now] + late
        self.delivered_late.append(len(now))
        return here + now


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files_and_children() -> tuple[int, list[str]]:
    children = [
        path.read_text(encoding="ascii").strip()
        for path in Path("/proc/self/task").glob("*/children")
    ]
    return len(list(Path("/proc/self/fd").iterdir())), sorted(filter(None, children))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_two_hundred_rounds_with_failing_replies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A leak of one model's weights a round would be 150 times their size after the warm-up.

    Allowed is half.
    """
    # Pytest would keep the tracebacks of nodes, and what they hold
    caplog.set_level(logging.WARNING, logger="flwr")
    present = {name: np.ones(32, dtype=bool) for name in ("audio", "visual")}
    small = {name: np.ones(6, dtype=bool) for name in present}
    data = oracle.prepare(tmp_path / "toy", present, small)
    raw = resolve(None, {**SETTINGS, "data": str(data)}, [f"run-dir={tmp_path / 'run'}"])
    configs = [{"partition-id": part, "num-partitions": NODES} for part in range(NODES)]
    grid = FlakyGrid(configs, raw)
    resident, handles, rounds = [], [], itertools.count()

    def look() -> None:
        if next(rounds) in (WARM_UP, ROUNDS):
            resident.append(resident_bytes())
            handles.append(open_files_and_children())

    run(read_run_config(raw), grid, look, plots=False)

    records = read_metrics(tmp_path / "run")
    assert [record["round"] for record in records] == list(range(ROUNDS + 1))
    found: Counter[str] = Counter()
    for record, injected, late in zip(records[1:], grid.injected, grid.delivered_late, strict=True):
        assert set(record["nodes"]) == set(map(str, range(NODES)))
        assert (
            set(record["examples"]) == set(record["nodes"]) - set(map(str, injected))
            or record["failed"]
        )
        strangers = list(injected.values()).count("foreign")
        assert len(record["refused"]) == len(injected) + strangers + late
        found.update(
            kind for line in record["refused"] for kind, words in WORDS.items() if words in line
        )
    kinds = Counter(kind for injected in grid.injected for kind in injected.values())
    assert min(kinds[kind] for kind in KINDS) > 15
    assert (found["raise"], found["nan"]) == (kinds["raise"], kinds["nan"])
    assert found["silent"] == kinds["silent"] + kinds["late"] + kinds["foreign"]
    assert found["late"] == sum(grid.delivered_late) + kinds["foreign"]
    assert sum(len(record["refused"]) for record in records) == found.total()

    model = (tmp_path / "run" / "model.safetensors").stat().st_size
    (before, after), (handles_before, handles_after) = resident, handles
    assert after - before < (ROUNDS - WARM_UP) * model / 2
    assert handles_after == handles_before
