"""Names that a key may have as its value, where what they stand for lies above the configuration."""

AGGREGATIONS = ("mean", "median", "trimmed-mean", "krum")
"""Values of the key ``aggregation``: a weighted mean, or a rule of ``aggregation/robust.py``."""
OPTIMIZERS = ("none", "fedavgm", "fedadam", "fedyogi")
"""Values of the key ``server-optimizer``: none, and those of ``aggregation/optimizers.py``."""
WIRE_DTYPES = ("float32", "float16")
"""Values of the key ``wire-dtype``: what float32 weights travel in, ``wire/packing.py``."""
INITIALIZATIONS = ("torch", "xavier-kaiming")
"""As each layer does by itself, or as the paper's authors do: Xavier for linear layers, Kaiming for convolutions."""
