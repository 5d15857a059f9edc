"""One file -> one array, and the stream that describes it."""
