"""Arrays in messages, under the name that users' apps import them by."""

from fedcmi_flwr.wire.packing import WireError, pack, unpack
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict

__all__ = ["WireError", "pack", "to_arrays", "to_state_dict", "unpack"]
