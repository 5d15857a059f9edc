"""The deployment kit: what a server and its devices need, and a rehearsal of it on this machine."""
