"""What can go wrong while data are prepared, in words that a user can act on."""

from pathlib import Path


class PrepError(ValueError):
    """Raw data, settings or an output directory that preparation cannot work with."""


class UnreadableFileError(PrepError):
    """One source file that cannot be used; a preparation may list it and go on.

    Parameters
    ----------
    path
        The file.
    reason
        What was found, what was expected, and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
