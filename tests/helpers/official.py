"""The official lists of the archives, where they are beside this checkout; and stubs of the files that they name."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

ARCHIVES = Path(__file__).parents[3] / "shared" / "data" / "archives"
needs_archives = pytest.mark.skipif(not ARCHIVES.is_dir(), reason="the official lists are not beside this checkout")


def put_stubs(stub: Path, paths: Iterable[Path]) -> None:
    """Make a file look as if it were all of these."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.hardlink_to(stub)


def copy_lists(name: str, raw: Path) -> Path:
    """Copy the lists of an archive, and return the directory."""
    return Path(shutil.copytree(ARCHIVES / name, raw, copy_function=shutil.copyfile))
