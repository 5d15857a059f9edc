"""What runs on the server, and the only place that writes results."""

from fedcmi_flwr.machine.bundle import enter_bundle

enter_bundle()
