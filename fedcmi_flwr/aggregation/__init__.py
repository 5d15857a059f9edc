"""From updates to weights: mean, robust rules, server optimisers, differential privacy."""
