"""Damaged files are refused or taken, and nothing else.

A sample of what tests/helpers/damaged_media.py tries.
"""

from pathlib import Path

from damaged_media import DAMAGES, IMAGES, SOUNDS, VIDEOS, try_files


def test_nothing_crashes_hangs_or_is_short_without_a_word(tmp_path: Path) -> None:
    kinds = len(SOUNDS) + len(IMAGES) + len(VIDEOS) + 1
    outcomes = try_files(tmp_path, len(DAMAGES) * kinds, seed=1)
    assert {(outcome.damage, outcome.kind) for outcome in outcomes} >= {
        ("cut", "mp3"),
        ("renamed", "npy"),
    }
    assert [outcome for outcome in outcomes if outcome.is_wrong] == []
