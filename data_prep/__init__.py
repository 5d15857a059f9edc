"""Raw archives -> prepared directories: one file per data set, media code shared."""
