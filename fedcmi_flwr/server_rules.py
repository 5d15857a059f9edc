"""The names of what a server does with weights and replies; a configuration is read where Flower is not, too."""

AGGREGATIONS = ("mean", "median", "trimmed-mean", "krum")
"""Values of the key ``aggregation``: the weighted mean of ``aggregation.py``, and those of ``robust.py``."""
OPTIMIZERS = ("none", "fedavgm", "fedadam", "fedyogi")
"""Values of the key ``server-optimizer``: none, and those of ``server_optimizers.py``."""
WIRE_DTYPES = ("float32", "float16")
"""Values of the key ``wire-dtype``: what float32 weights travel in, ``packing.py``."""
