"""How large a file of several streams should be, by its own account.

What shows that it is cut off.
"""

import struct
from pathlib import Path

from data_prep.errors import UnreadableFileError

_PACKETS = ((0, 188), (4, 192), (0, 204))
"""Where the first sync byte of an MPEG transport stream is, and the bytes of a packet: plain,
with time stamps, with error correction."""
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
"""What an MP4 or QuickTime file begins with."""


def check_container_whole(path: Path) -> None:
    """Raise UnreadableFileError for an AVI, MP4, QuickTime, Matroska or transport stream file that
    is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)

    packet = next((length for start, length in _PACKETS if head[start::length][:2] == b"GG"), 1)
    if size % packet:
        raise UnreadableFileError(
            path, "cut off: its last packet is not whole; fetch the file again."
        )

    expected = _stated_size(path, head, size)
    if expected > size + 1:
        raise UnreadableFileError(
            path, f"cut off: {size} bytes found, its header says {expected}; fetch the file again."
        )


def _stated_size(path: Path, head: bytes, size: int) -> int:
    """Return how many bytes there should be; what is there, where the header does not say."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        declared = int(struct.unpack("<I", head[4:8])[0])
        return declared + 8 if 0 < declared < 0x7FFFF000 else size

    if head[:4] == _EBML:
        return _matroska_size(head, size)
    if head[4:8] in _BOXES:
        return _boxes_end(path, size)

    return size


def _boxes_end(path: Path, size: int) -> int:
    """Return where the last box at the top of an MP4 file ends."""
    place = 0
    with path.open("rb") as file:
        while place + 8 <= size:
            file.seek(place)
            length, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            if length == 0 or not kind.isalnum():  # to the end of the file; or no box any more
                return size

            place += large if length == 1 else length
            if length == 1 and large < 16:
                return size

    return max(place, size)


def _matroska_size(head: bytes, size: int) -> int:
    """Return where the segment of a Matroska file ends, which holds all but a short header."""
    place = head.find(_SEGMENT)
    if place < 0:
        return size

    length, digits = _number(head[place + 4 :])
    unknown = (1 << (7 * digits)) - 1

    return size if not digits or length == unknown else place + 4 + digits + length


def _number(data: bytes) -> tuple[int, int]:
    """Return a number of EBML, whose first bit that is set says of how many bytes it is, and those
    bytes.
    """
    first = data[0] if data else 0
    digits = 9 - first.bit_length()
    if not first or len(data) < digits:
        return 0, 0

    return int.from_bytes(data[:digits], "big") & ((1 << (7 * digits)) - 1), digits
