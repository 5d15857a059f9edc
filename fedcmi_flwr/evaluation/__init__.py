"""From logits to a class, a confidence and a count."""
