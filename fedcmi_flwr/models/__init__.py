"""What is trained: encoders, branches, fusion heads, weights on disk."""
