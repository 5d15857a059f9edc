"""``fedcmi report``: HTML pages of runs and benches."""
