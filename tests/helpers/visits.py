"""Which files a call visits, in order.

What a reader opens who follows one message through the code.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]


def visited(call: Callable[[], object], *rooms: str) -> list[str]:
    """Return the files of some rooms in the order in which a call enters them from other files.

    Parameters
    ----------
    call
        What is followed.
    rooms
        Directories below the checkout ("fedcmi_flwr/wire").

    Returns
    -------
    Paths below the checkout; several entries in a row are one visit. A return to a file is none,
    nor is what a file calls of itself, nor a comprehension.
    """
    files: list[str] = []
    prefixes = tuple(f"{ROOT / room}/" for room in rooms)

    def note(frame: FrameType, event: str, _: Any) -> None:
        code, caller = frame.f_code, _caller(frame)
        if (
            event != "call"
            or not code.co_filename.startswith(prefixes)
            or code.co_name.startswith("<")
        ):
            return
        if caller is not None and caller.f_code.co_filename == code.co_filename:
            return
        name = Path(code.co_filename).relative_to(ROOT).as_posix()
        if files[-1:] != [name]:
            files.append(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def _caller(frame: FrameType) -> FrameType | None:
    """Return who called a function, past the checks of its shapes that the tests put around it."""
    caller = frame.f_back
    while caller is not None and (
        "jaxtyping" in caller.f_code.co_filename or "beartype" in caller.f_code.co_filename
    ):
        caller = caller.f_back
    return caller
