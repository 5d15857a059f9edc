"""A method that looks at class statistics says itself when nodes measure them.

What it inherits is of another loss.
"""

from typing import Any

NEED_STATISTICS = ("decide", "teaching")
"""Hooks that are given class statistics."""


class SaysWhenItMeasures:
    """Refuses a class with hooks of its own that need statistics, and no ``measures`` of its own.

    FedCMI's ``measures`` is False where lambda is 0. A teacher with another weight that
    inherited it would be given no statistics then, and never teach.

    Examples
    --------
    >>> class Own(SaysWhenItMeasures):
    ...     def teaching(self): ...
    Traceback (most recent call last):
    TypeError: Own.teaching is given class statistics where Own.measures is True: define that property in Own too.
    """

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 (as Python has it)
        """Check a new class."""
        super().__init_subclass__(**options)
        own = [name for name in NEED_STATISTICS if name in vars(cls)]
        if own and "measures" not in vars(cls):
            name = cls.__name__
            raise TypeError(
                f"{name}.{own[0]} is given class statistics where {name}.measures is True: define "
                f"that property in {name} too."
            )
