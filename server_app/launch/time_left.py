"""How long a run will still take, from the rounds that it has done."""

import time


class TimeLeft:
    """An estimate by the mean time of the rounds that were seen.

    Parameters
    ----------
    rounds
        Planned rounds.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def note(self, server_round: int) -> None:
        """Note that a round has just ended."""
        self._last = (server_round, time.monotonic())
        self._first = self._first or self._last

    def seconds(self) -> float | None:
        """Return the estimate in seconds.

        None before one whole round was seen, and after the last one.
        """
        if self._first is None or self._last[0] in (self._first[0], self.rounds):
            return None

        (first, begin), (last, end) = self._first, self._last
        return (end - begin) / (last - first) * (self.rounds - last)

    def text(self) -> str:
        """Return the estimate for people, "about 3 min left, until 18:42".

        Empty where there is none.
        """
        seconds = self.seconds()
        if seconds is None:
            return ""

        until = time.strftime("%H:%M", time.localtime(time.time() + seconds))

        return f"about {duration(seconds)} left, until {until}"


def duration(seconds: float) -> str:
    """Return a duration for people.

    Parameters
    ----------
    seconds
        From 0.

    Returns
    -------
    In seconds, minutes or hours.

    Examples
    --------
    >>> duration(41.6), duration(200), duration(9000)
    ('42 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
