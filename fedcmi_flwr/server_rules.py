"""The names of what a server does with replies; a configuration is read where Flower is not, too."""

AGGREGATIONS = ("mean", "median", "trimmed-mean", "krum")
"""Values of the key ``aggregation``: the weighted mean of ``aggregation.py``, and those of ``robust.py``."""
OPTIMIZERS = ("none", "fedavgm", "fedadam", "fedyogi")
"""Values of the key ``server-optimizer``: none, and those of ``server_optimizers.py``."""
