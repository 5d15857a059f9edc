"""``make bench`` runs, and its measurements of training need torch and torchvision alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SCRIPTS = re.findall(
    r"\$\(BIN\)/python (tests/benchmarks/\S+)", MAKEFILE.partition("bench:")[2].partition("\n\n")[0]
)
SMALLEST = {
    "step.py": ["--repetitions", "1", "--batch", "2", "--threads", "1"],
    "epoch.py": [
        "--repetitions",
        "1",
        "--batch",
        "2",
        "--batches",
        "1",
        "--epochs",
        "1",
        "--threads",
        "1",
    ],
    "features.py": ["--samples", "8", "--size", "32", "--epochs", "2", "--rounds", "1"],
    "bench_reading.py": ["--samples", "64", "--size", "32"],
    "bench_prep.py": ["--clips", "24", "--repetitions", "1"],
    "prep_memory.py": ["--share", "0.01"],
    "aggregation.py": ["--replies", "3", "--megabytes", "0.1", "--tensors", "4"],
    "network.py": [
        "--megabytes",
        "0.1",
        "--tensors",
        "4",
        "--turns",
        "1",
        "--only",
        "packed, as they arrive",
    ],
    "simulation.py": ["--only", "growth", "--nodes", "4", "--rounds", "3"],
}
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
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BARE}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {BARE} else find_spec(name, *rest)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_benchmark_of_the_makefile_is_known() -> None:
    assert {Path(script).name for script in SCRIPTS} == set(SMALLEST)


@pytest.mark.parametrize(
    "script",
    ["features.py", "bench_reading.py", "bench_prep.py", "prep_memory.py", "aggregation.py"],
)
def test_benchmarks_print_ratios(script: str, tmp_path: Path) -> None:
    assert re.search(
        r"\d x", _run([str(ROOT / "tests" / "benchmarks" / script), *SMALLEST[script]], tmp_path)
    )


def test_rounds_over_the_network_are_measured_on_real_processes(tmp_path: Path) -> None:
    found = _run(
        [str(ROOT / "tests" / "benchmarks" / "network.py"), *SMALLEST["network.py"]], tmp_path
    )
    for row in ("one array per tensor", "packed, as they arrive"):
        assert re.search(rf"^{row} .*\d x", found, re.MULTILINE)


def test_simulated_rounds_are_measured_on_ray(tmp_path: Path) -> None:
    found = _run(
        [str(ROOT / "tests" / "benchmarks" / "simulation.py"), *SMALLEST["simulation.py"]], tmp_path
    )
    assert re.search(r"^4 .* s .* MB .*\d x the first row's", found, re.MULTILINE)


@pytest.mark.parametrize("script", ["step.py", "epoch.py"])
def test_training_is_measured_on_a_bare_machine(script: str, tmp_path: Path) -> None:
    """step.py also checks that the plain step and ours come to the same losses."""
    found = _run(
        ["-c", HIDE, str(ROOT / "tests" / "benchmarks" / script), "--cpu", *SMALLEST[script]],
        tmp_path,
    )
    for row in ("fp32", "bf16"):
        assert re.search(rf"^{row} .*\d x", found, re.MULTILINE)
    assert "GPU rows: unmeasured" in found


def _run(arguments: list[str], directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
