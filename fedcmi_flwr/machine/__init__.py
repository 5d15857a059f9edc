"""Files, caches and directories of this machine; knows no domain."""
