"""A round's record as named numbers: what live trackers and TensorBoard's files show."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TaggedScalar = tuple[str, float, int]
"""Tag, value, round."""


def scalars(record: Mapping[str, Any], classes: Sequence[str]) -> Iterator[TaggedScalar]:
    """Yield what a round measured; what is null is left out, since it would be shown as a number.

    Parameters
    ----------
    record
        One line of metrics.jsonl.
    classes
        Names of the classes.

    Yields
    ------
    Tag, value and round.
    """
    step = record["round"]
    for group in ("accuracy", "macro", "worst_class", "losses"):
        yield from (
            (f"{group}/{name}", value, step)
            for name, value in record[group].items()
            if value is not None
        )

    for name, value in record.get("validation", {}).items():
        if value is not None:
            yield f"validation/{name}", value, step

    for group in ("ratio", "temperature"):
        for modality, values in record["measured"][group].items():
            named = zip(classes, values, strict=True)
            yield from (
                (f"{group} {modality}/{name}", value, step)
                for name, value in named
                if value is not None
            )

    yield "cost/seconds", record["seconds"], step
    yield "cost/refused", len(record["refused"]), step
