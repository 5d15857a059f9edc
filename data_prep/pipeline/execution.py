"""How a preparation is carried out.

By how many processes, in spite of how many unusable files, and who is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import PrepError
from data_prep.pipeline.plan import Exclusion
from data_prep.pipeline.reasons import by_reason, named


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
    """Samples that may be left out because a file of theirs cannot be used; they are listed in
    ``excluded.csv``."""
    show: Show = _show_nothing
    """Called in the calling process before the first samples are decoded and after each block of
    them."""

    def __post_init__(self) -> None:
        """Check the ranges before anything is read or written."""
        if self.workers < 1 or self.max_bad < 0:
            raise PrepError(
                f"workers = {self.workers}, max_bad = {self.max_bad}: must be at least 1 and at "
                "least 0."
            )

    def tolerate(self, bad: Sequence[Exclusion], listed: Path | None = None) -> None:
        """Refuse more unusable samples than allowed.

        Parameters
        ----------
        bad
            What is left out because a source file cannot be used.
        listed
            Where all of them are listed; None: nowhere.

        Raises
        ------
        PrepError
            There are more than ``max_bad``; the message says why, with examples.
        """
        if len(bad) <= self.max_bad:
            return

        shown = "\n".join(f"  {_files(reason.sources)}: {reason.text}" for reason in by_reason(bad))
        where = "" if listed is None else f"\nAll of them are listed in {listed}"
        raise PrepError(
            f"{len(bad)} source files cannot be used, max_bad = {self.max_bad} allowed; "
            f"mend them, or raise max_bad to go on without them:\n{shown}{where}"
        )


def _files(sources: Sequence[str]) -> str:
    return sources[0] if len(sources) == 1 else named(sources, "file")


SERIAL = Execution()
"""One process, every file must be usable, and nothing is shown."""
