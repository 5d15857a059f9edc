"""Four devices with a part of av-digits each, and the description of their deployment."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from stored import StoredSplit, store

from fedcmi_flwr.data.schema import array_path, labels_path, read_spec, samples_path

EDGES = {
    "edge-both": ["audio", "visual"],
    "edge-both-2": ["audio", "visual"],
    "edge-audio": ["audio"],
    "edge-visual": ["visual"],
}
"""Device -> what it owns; the position is its partition id."""


def cut(whole: Path, out: Path) -> dict[str, Path]:
    """Give each device every fourth sample, in its own modalities only, in a prepared directory of
    its own.
    """
    return {name: _part(whole, out / name, place) for place, name in enumerate(EDGES)}


def _part(whole: Path, out: Path, place: int) -> Path:
    spec, owned = read_spec(whole), list(EDGES.values())[place]
    rows = slice(place, None, len(EDGES))
    modalities = tuple(modality for modality in spec.modalities if modality.name in owned)
    splits = {split: _rows(whole, split, rows, owned) for split in spec.splits}
    return store(out, replace(spec, modalities=modalities), splits)


def _rows(whole: Path, split: str, rows: slice, owned: list[str]) -> StoredSplit:
    stored = read_spec(whole).modality_names
    with samples_path(whole, split).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))[rows]
    sources = {
        name: [row["source"].split(";")[stored.index(name)] for row in table] for name in owned
    }
    arrays = {name: np.load(array_path(whole, split, name))[rows] for name in owned}
    labels = np.load(labels_path(whole, split))[rows]
    return StoredSplit(
        [row["id"] for row in table], labels, [row["group"] for row in table], sources, arrays
    )


def nodes_toml(data: Path, parts: dict[str, Path], address: str = "fedcmi.example.org:8000") -> str:
    """Return the deployment's description, as a user writes it."""
    text = f"[superlink]\naddress = {json.dumps(address)}\ndata = {json.dumps(str(data))}\n"
    for name, owned in EDGES.items():
        text += f"\n[[node]]\nname = {json.dumps(name)}\nmodalities = {json.dumps(owned)}\n"
        text += f"data = {json.dumps(str(parts[name]))}\n"
    return text
