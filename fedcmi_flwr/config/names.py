"""Allowed values of keys whose implementations live in higher rooms."""

WIRE_DTYPES = ("float32", "float16")
"""Values of the key ``wire-dtype``: what float32 weights travel in, ``wire/packing.py``."""
COMPRESSIONS = ("none", "int8", "top-k")
"""Values of the key ``update-compression``, ``wire/compression.py``."""
INITIALIZATIONS = ("torch", "xavier-kaiming")
"""As each layer does by itself, or as the paper's authors do: Xavier for linear layers, Kaiming
for convolutions."""
