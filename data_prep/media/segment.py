"""A part of a recording."""

Segment = tuple[float, float]
"""Start and end in seconds since the start of the file."""
