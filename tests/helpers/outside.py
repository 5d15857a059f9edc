"""The example package as pip would install it: built, and unpacked into a directory of its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "example_package"
BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"


def install(directory: Path) -> Path:
    """Return a directory for ``sys.path`` that holds my_package and the metadata with its entry
    points.
    """
    subprocess.run(
        [sys.executable, "-c", BUILD, str(directory)], cwd=EXAMPLE, check=True, capture_output=True
    )
    (wheel,) = directory.glob("*.whl")
    site = directory / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def forget() -> None:
    """Let Python import the package anew, or miss it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]
