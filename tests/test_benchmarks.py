"""``make bench`` runs. Its measurements of training are run by tests/test_gpu_script.py."""

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
RUN_BY_THE_GPU_SCRIPT = ("step.py", "epoch.py")


def test_every_benchmark_of_the_makefile_is_known() -> None:
    assert {Path(script).name for script in SCRIPTS} == {*SMALLEST, *RUN_BY_THE_GPU_SCRIPT}
    script = (ROOT / "tests" / "gpu" / "run.sh").read_text(encoding="utf-8")
    assert [name for name in RUN_BY_THE_GPU_SCRIPT if f"benchmarks/{name}" not in script] == []


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
