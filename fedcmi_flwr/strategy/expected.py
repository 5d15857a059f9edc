"""The names that replies may use.

Whatever else a node invents would stay in every record and table of the run.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedcmi_flwr.wire.packing import WireError

MOST_NAMES = 64
"""Loss terms, or predictions, of one reply where nothing is known of their names: those of 6
modalities."""


@dataclass(frozen=True)
class ExpectedNames:
    """What the server knows of the names in replies.

    None: nothing, as of an app with nodes of its own.
    """

    terms: Collection[str] | None = None
    """Loss terms of the method."""
    predictions: Collection[str] | None = None
    """Ways to predict that nodes evaluate."""

    def check_terms(self, found: Collection[str]) -> None:
        """Raise WireError for loss terms that the method does not have."""
        _check("loss term", found, self.terms)

    def check_predictions(self, found: Collection[str]) -> None:
        """Raise WireError for predictions that nobody asked for."""
        _check("prediction", found, self.predictions)


ANY_NAMES = ExpectedNames()
"""Nothing is known, so only their number is bounded."""


def _check(what: str, found: Collection[str], known: Collection[str] | None) -> None:
    if len(found) > MOST_NAMES:
        raise WireError(f"metrics: {len(found)} {what}s; at most {MOST_NAMES} are taken.")

    unknown = _first_unknown(found, known)
    if unknown is not None:
        raise WireError(
            f"metrics: the {what} {unknown!r} was not asked for; known are {sorted(known or ())}."
        )


def _first_unknown(found: Iterable[str], known: Collection[str] | None) -> str | None:
    return (
        None if known is None else next((name for name in sorted(found) if name not in known), None)
    )
