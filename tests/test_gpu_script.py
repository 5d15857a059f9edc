"""The measurements on a GPU, tried without one.

All of the script runs, and says what it cannot do.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from server_app.launch import gpu_share

HERE = Path(__file__).parent
SCRIPT = HERE / "gpu" / "run.sh"
sys.path.insert(0, str(HERE / "gpu"))
import clients  # noqa: E402 (as its script finds it)

BARE = (
    "flwr",
    "flwr_datasets",
    "jaxtyping",
    "pandas",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "pyarrow",
)
"""What a machine with torch and torchvision alone has not."""
HIDE = f"""
import importlib.util, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BARE}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {BARE} else find_spec(name, *rest)
"""


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script on a bare machine: Python reads ``sitecustomize.py`` before anything else."""
    (directory / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    variables = {
        **os.environ,
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(directory),
    }
    return subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_script_runs_on_a_bare_machine_without_a_gpu(tmp_path: Path) -> None:
    """step.py also checks that the plain step and ours come to the same losses."""
    done = run(tmp_path, "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stderr
    for row in ("fp32", "bf16"):
        # A step's, and a round's
        assert len(re.findall(rf"^{row} .*\d x", done.stdout, re.MULTILINE)) >= 2
    assert done.stdout.count("GPU rows: unmeasured") == 2
    for count in (1, 2):
        assert re.search(
            rf"^\| {count} \| [\d.]+ \| [\d.]+ x \| [\d.]+ GB \|$", done.stdout, re.MULTILINE
        )
    assert "left out: flwr and ray are not installed here" in done.stdout


@pytest.mark.skipif(
    os.name == "nt" or torch.cuda.is_available(),
    reason="a shell script, for a machine without a GPU",
)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "torch sees no GPU here; --device cpu"),
        (["--device", "tpu"], "must be cuda or cpu"),
        (["--fast"], "unknown option --fast"),
    ],
)
def test_it_says_what_it_cannot_do(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode > 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("free", "one"), [(24 * 10**9, 2 * 10**9), (10**9, 10**10), (80 * 10**9, 3 * 10**9)]
)
def test_room_is_counted_as_a_run_counts_it(free: int, one: int) -> None:
    assert clients.clients_that_fit(free, one) == gpu_share.clients_that_fit(free, one)
