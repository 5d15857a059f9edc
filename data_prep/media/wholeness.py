"""Sound files that libsndfile reads.

Which they are, by their first bytes, and whether all of them is there.

libsndfile returns the part that there is of a file that is cut off; what the header says about
the size is compared with the file.
"""

import re
import struct
from pathlib import Path

from data_prep.errors import UnreadableFileError

_HEAD = 1 << 16
_STARTS = (
    b"RIFF",
    b"RF64",
    b"RIFX",
    b"FORM",
    b".snd",
    b"fLaC",
    b"OggS",
    b"caff",
    b"riff",
    b"NIST",
    b"Creative Voice",
)
_SOX_UNKNOWN = 0x7FFFF000
"""From here on a size stands for "unknown" in the header of a WAV file that sox wrote to a pipe."""
_KBITS = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of MPEG version 1 (3 in its header) and of the others, layer III."""
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def is_sound_file(path: Path) -> bool:
    """Return whether a file begins as one of libsndfile's formats does."""
    with path.open("rb") as file:
        head = file.read(16)

    return head.startswith((*_STARTS, b"ID3")) or _mp3_frame_bytes(head) > 0


def check_whole(path: Path) -> None:
    """Raise UnreadableFileError for a file that is shorter than its header says.

    One byte less is accepted, since some writers leave out the last padding byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(size - _HEAD, 0))
        tail = file.read()

    expected = _stated_size(head, tail, size)
    if expected > size + 1:
        raise UnreadableFileError(
            path, f"cut off: {size} bytes found, its header says {expected}; fetch the file again."
        )
    if head.startswith(b"OggS") and not _ends_a_stream(tail):
        raise UnreadableFileError(
            path, "cut off: its last page does not end the stream; fetch the file again."
        )

    if head.startswith(b"ID3") or _mp3_frame_bytes(head):
        _check_mp3(path, size)


def _stated_size(head: bytes, tail: bytes, size: int) -> int:
    """Return how many bytes there should be, by the header.

    What is there, where the header does not say.
    """
    kind = head[:4]
    if kind == b"RIFF" and len(head) >= 8:
        declared = int(struct.unpack("<I", head[4:8])[0])
        return size if declared == 0 or declared >= _SOX_UNKNOWN else declared + 8

    if kind == b"FORM" and len(head) >= 8:
        declared = int(struct.unpack(">I", head[4:8])[0])
        return size if declared == 0 or declared >= _SOX_UNKNOWN else declared + 8

    if kind == b".snd" and len(head) >= 12:
        begin, length = struct.unpack(">II", head[4:12])
        return size if length == 0xFFFFFFFF else int(begin + length)

    if kind == b"caff":
        return _caf_size(head, size)

    return size


def _caf_size(head: bytes, size: int) -> int:
    """Return the end of the data chunk of a CAF file."""
    place = 8
    while place + 12 <= len(head):
        name, length = struct.unpack(">4sq", head[place : place + 12])
        if name == b"data":
            return size if length < 0 else place + 12 + int(length)

        place += 12 + max(int(length), 0)

    return size


def _ends_a_stream(tail: bytes) -> bool:
    """Return whether the last page of an Ogg file is whole, and the last of its stream."""
    place = tail.rfind(b"OggS")
    if place < 0 or len(tail) < place + 27:
        return False

    segments = tail[place + 26]
    table = tail[place + 27 : place + 27 + segments]

    return bool(tail[place + 5] & 4) and len(tail) >= place + 27 + segments + sum(table)


def _check_mp3(path: Path, size: int) -> None:
    """Compare an MP3 file with the size in its first frame.

    Without one, look whether its last frame is whole.

    Headers alone are read, frame by frame: an hour of sound takes no more memory than a second.
    """
    with path.open("rb") as file:
        start = _after_id3(file.read(10))
        file.seek(start)
        header = file.read(200)
        tag = re.search(rb"Xing|Info", header)
        if tag is not None:
            stored = header[tag.start() + 4 : tag.start() + 16].ljust(12)
            flags, _, stated = struct.unpack(">III", stored)
            if flags & 3 == 3 and start + stated > size + 1:
                raise UnreadableFileError(
                    path,
                    f"cut off: {size} bytes found, its header says {start + stated}; fetch the "
                    "file again.",
                )

        file.seek(start)
        while length := _mp3_frame_bytes(file.read(4)):
            if start + length > size:
                raise UnreadableFileError(
                    path, "cut off: its last frame is not whole; fetch the file again."
                )

            start += length
            file.seek(start)


def _after_id3(head: bytes) -> int:
    """Return where the first frame begins, by the first ten bytes."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0

    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _mp3_frame_bytes(header: bytes) -> int:
    """Return the length of the frame of layer III that begins here; 0: none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0

    version, rate, padding = header[1] >> 3 & 3, header[2] >> 2 & 3, header[2] >> 1 & 1
    bits = header[2] >> 4
    if version == 1 or rate == 3 or bits in (0, 15):
        return 0

    kbits = _KBITS[3 if version == 3 else 2][bits - 1]

    return (144 if version == 3 else 72) * kbits * 1000 // _RATES[version][rate] + padding
