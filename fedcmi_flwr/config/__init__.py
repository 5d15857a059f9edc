"""What a key may be: names, ranges, sections."""
