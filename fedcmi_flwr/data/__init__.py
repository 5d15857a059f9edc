"""A prepared directory, read: contract, splits, batches, views."""
