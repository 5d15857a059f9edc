"""How a preparation is carried out: by how many processes, in spite of how many unusable files, and who is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.errors import PrepError
from data_prep.pipeline.plan import Exclusion

NAMED = 20
"""Unusable files that an error names; of the others it says how many there are."""


@dataclass(frozen=True)
class DecodingProgress:
    """How far a preparation is."""

    done: int
    """Samples decoded or refused, those of earlier calls included."""
    total: int
    resumed: int
    """Samples that an earlier, interrupted call made."""


Show = Callable[[DecodingProgress], None]


def _show_nothing(progress: DecodingProgress) -> None:
    pass


@dataclass(frozen=True)
class Execution:
    """How a preparation is carried out; it does not change what is stored of a sample.

    Raises
    ------
    PrepError
        No workers, or less than no unusable samples.
    """

    workers: int = 1
    """Processes that decode, 1 or more; 1 is the calling process itself."""
    max_bad: int = 0
    """Samples that may be left out because a file of theirs cannot be used; they are listed in ``excluded.csv``."""
    show: Show = _show_nothing
    """Called in the calling process before the first samples are decoded and after each block of them."""

    def __post_init__(self) -> None:
        """Check the ranges before anything is read or written."""
        if self.workers < 1 or self.max_bad < 0:
            raise PrepError(f"workers = {self.workers}, max_bad = {self.max_bad}: must be at least 1 and at least 0.")

    def tolerate(self, bad: Sequence[Exclusion]) -> None:
        """Refuse more unusable samples than allowed.

        Parameters
        ----------
        bad
            What is left out because a source file cannot be used.

        Raises
        ------
        PrepError
            There are more than ``max_bad``; the message names them.
        """
        if len(bad) <= self.max_bad:
            return
        shown = "\n".join(f"  {entry.source}: {entry.reason}" for entry in bad[:NAMED])
        more = f"\n  and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise PrepError(
            f"{len(bad)} source files cannot be used, max_bad = {self.max_bad} allowed; "
            f"fetch them again, or raise max_bad to go on without them:\n{shown}{more}"
        )


SERIAL = Execution()
"""One process, every file must be usable, and nothing is shown."""
