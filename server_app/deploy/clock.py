"""A device's clock compared with the server's.

Flower signs the time, and lets nobody in who is too far off.
"""

from email.utils import parsedate_to_datetime

AHEAD, BEHIND = 4.0, 290.0
"""Seconds that a device's clock may differ; a SuperLink takes 5 and 305."""
RESOLUTION = 0.5
"""Seconds: the server says the time in whole ones."""


def difference(date: str, sent: float, received: float) -> float:
    """Return how far this machine's clock is ahead of the server's.

    Parameters
    ----------
    date
        The header ``Date`` of the server's answer.
    sent
        This machine's time when it asked, in seconds since 1970.
    received
        The same when the answer came.

    Returns
    -------
    Seconds; below 0 where this machine is behind. Right to ``RESOLUTION`` and half of the way's
    time.

    Examples
    --------
    >>> difference("Thu, 01 Jan 1970 00:01:00 GMT", 90.0, 91.0)
    30.0
    """
    server = parsedate_to_datetime(date).timestamp() + RESOLUTION
    return (sent + received) / 2 - server


def complaint(seconds: float) -> str | None:
    """Return what is wrong with a difference, in a sentence; None: nothing."""
    if -BEHIND <= seconds <= AHEAD:
        return None

    side = "ahead of" if seconds > 0 else "behind"
    return (
        f"this machine's clock differs by {abs(seconds):.0f} s from the server's: it is {side} "
        "it, so the server lets it in nowhere; set the clock (`timedatectl set-ntp true`)."
    )
