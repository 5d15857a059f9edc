"""Files and directories are old or new, never torn; on the disk before they have their names.

Of the umask's mode.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedcmi_flwr.machine.atomic_files import new_directory, replacing, write_atomically


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is brought to the disk and renamed from now on, in order.

    "file", "directory", "rename".
    """
    events: list[str] = []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def note_sync(handle: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def note_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    def note_replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(Path, "replace", note_replace)
    return events


@pytest.fixture
def group_may_write() -> Iterator[None]:
    """Let new files be writable by their group while a test runs."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, synced: list[str]
) -> None:
    write_atomically(tmp_path / "a.txt", "größer")
    assert synced == ["file", "rename", "directory"]
    assert (tmp_path / "a.txt").read_bytes() == "größer".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_directory_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, synced: list[str]
) -> None:
    with new_directory(tmp_path / "made") as partial:
        (partial / "below").mkdir()
        (partial / "below" / "a.txt").write_text("1")
    assert sorted(synced[:3]) == ["directory", "directory", "file"]
    assert synced[3:] == ["rename", "directory"]
    assert (tmp_path / "made" / "below" / "a.txt").read_text() == "1"


@pytest.mark.usefixtures("group_may_write")
def test_whatever_wrote_a_file_its_mode_is_the_umasks(tmp_path: Path) -> None:
    """Safetensors makes private files of its own.

    A model is to be read by whoever may read its run.
    """
    save_file({"w": np.zeros(3)}, tmp_path / "private")
    with replacing(tmp_path / "model") as partial:
        save_file({"w": np.zeros(3)}, partial)
    write_atomically(tmp_path / "text", "1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "model": 0o664, "text": 0o664}


def test_a_directory_may_be_private(tmp_path: Path) -> None:
    with new_directory(tmp_path / "keys", mode=0o700):
        pass
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_nothing_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "made") as partial:
        (partial / "a.txt").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "old.txt").write_text("half")
    (tmp_path / ".a.txt.partial").write_text("half")
    (tmp_path / ".a.txt.partial").chmod(0o600)
    write_atomically(tmp_path / "a.txt", b"1")
    with new_directory(tmp_path / "made") as partial:
        (partial / "new.txt").write_text("1")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "made", "new.txt"]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "made/new.txt").stat().st_mode
    )


def test_an_empty_directory_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as partial:
        (partial / "a.txt").write_text("1")
    with pytest.raises(OSError, match="not empty"), new_directory(tmp_path / "empty"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["empty", "a.txt"]


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs Linux's device that is always full"
)
@pytest.mark.parametrize("kind", [replacing, new_directory])
def test_a_full_disk_is_told_with_the_path_and_nothing_is_left(
    tmp_path: Path, kind: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    path = tmp_path / "wanted"
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"), kind(path):
        Path("/dev/full").write_text("x" * 100, encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_has_a_path_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), replacing(tmp_path / "wanted"):
        (tmp_path / "other").read_bytes()
