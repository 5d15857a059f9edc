"""``fedcmi ...``: one file per group of commands; nothing below imports it."""
