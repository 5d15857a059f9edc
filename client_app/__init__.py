"""What runs on a node."""

from fedcmi_flwr.machine.bundle import enter_bundle

enter_bundle()
