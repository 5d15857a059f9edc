"""What runs on the server, and the only place that writes results."""

from pathlib import Path

from fedcmi_flwr.machine.bundle import enter_bundle

enter_bundle(Path(__file__).resolve().parents[1])
