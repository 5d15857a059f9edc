"""Arrays in messages, under the name that users' apps import them by."""

from fedcmi_flwr.wire.packing import WireError, pack, to_arrays, to_state_dict, unpack

__all__ = ["WireError", "pack", "to_arrays", "to_state_dict", "unpack"]
