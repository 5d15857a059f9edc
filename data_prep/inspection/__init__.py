"""What is in a prepared directory, shown."""
