"""A user's own files -> samples of a trained model."""
