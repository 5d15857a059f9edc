"""What runs on a node."""

from pathlib import Path

from fedcmi_flwr.machine.bundle import enter_bundle

enter_bundle(Path(__file__).resolve().parents[1])
