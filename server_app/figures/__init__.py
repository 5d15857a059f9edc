"""Numbers and pictures of records; no files of a run."""
