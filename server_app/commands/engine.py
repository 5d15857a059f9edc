"""Where simulated nodes run, as commands ask for it."""

from enum import StrEnum


class Engine(StrEnum):
    """Where the nodes run."""

    FLOWER = "flower"
    IN_PROCESS = "in-process"
