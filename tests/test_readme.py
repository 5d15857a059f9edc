"""Every command of every README is executed, shortened by the arguments that stand here.

Nothing may be left out.
"""

import gzip
import itertools
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arrays
import click
import commands
import markdown
import media
import numpy as np
import pytest
import soundfile
import tabular
import typer

from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar
from server_app.bench.configs import bench_configs, read_tuned
from server_app.bench.experiments import plan
from server_app.bench.suite import choose_settings
from server_app.commands.main import app
from server_app.deploy.nodes_toml import read_nodes_toml
from server_app.launch.flower_cli import free_port


def parsed(name: str, arguments: list[str]) -> dict[str, Any]:
    """Return the options and arguments of a command of ``fedcmi`` as it gets them."""
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    return command.commands[name].make_context(name, arguments).params


ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "data_prep/DATASETS.md",
    "server_app/launch/README.md",
    "server_app/run/README.md",
    "server_app/pages/README.md",
    "server_app/bench/README.md",
    "server_app/bench/RESULTS.md",
    "fedcmi_flwr/inference/README.md",
    "fedcmi_flwr/aggregation/README.md",
    "server_app/deploy/README.md",
    "tests/benchmarks/README.md",
)
"""Pages in the order in which they are read: a command may use what one of a page before has
made."""
RUN_BY_OTHERS = {
    "server_app/guides/comparison.md": "tests/test_guides.py",
    "server_app/guides/devices.md": "tests/server_app/deploy/test_devices_of_the_guide.py",
    "fedcmi_flwr/methods/README.md": "tests/server_app/launch/test_outside.py",
    "fedcmi_flwr/models/README.md": "tests/server_app/launch/test_outside.py",
    "tests/chaos/README.md": "tests/test_chaos.py",
    "tests/gpu/README.md": "tests/test_gpu_script.py",
    "tests/example_app/README.md": "tests/fedcmi_flwr/strategy/test_reuse.py",
    "tests/example_apps/advanced/README.md": "tests/test_example_apps.py",
    "tests/example_apps/hugging_face/README.md": "tests/test_example_apps.py",
    "tests/example_apps/quickstart/README.md": "tests/test_example_apps.py",
    "tests/example_apps/regression/README.md": "tests/test_example_apps.py",
}
"""Pages whose apps and packages are run by a test of their own."""


def blocks(document: str, language: str) -> list[str]:
    """Return the blocks of code of a page."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


LINES = [
    line
    for document in DOCUMENTS
    for block in blocks(document, "sh")
    for line in block.splitlines()
]
COMMANDS = list(dict.fromkeys(LINES))
"""Each once, although two pages may have it."""
TUNED_BEFORE = {
    Path(parsed("tune", shlex.split(command)[2:])["out"]) / "tuned.toml"
    for command in COMMANDS
    if command.startswith("fedcmi tune ")
}
RUN_ELSEWHERE = {
    "make demo": ROOT / ".ci" / "run",
    "make test": ROOT / ".ci" / "run",
    "fedcmi bench --suite": ROOT / "tests" / "server_app" / "bench" / "test_suite.py",
    "fedcmi deploy": ROOT / "tests" / "helpers" / "story.py",
    "ray start": ROOT / "tests" / "server_app" / "launch" / "test_ray_cluster.py",
    "RAY_ADDRESS=": ROOT / "tests" / "server_app" / "launch" / "test_ray_cluster.py",
    "make bench": ROOT / "tests" / "test_benchmarks.py",
}
OWN_PROCESS = ("fedcmi run --method fedcmi", "flwr run")
"""Commands that start Flower's processes run in a new one, in a new user's environment; the
others in the test's."""
SMALL = "--num-nodes 4 --set num-server-rounds=1 --set local-epochs=1"
SHORTER = {
    "fedcmi prep npz": "",
    "fedcmi prep": "--workers 1",
    "fedcmi inspect": "",
    "fedcmi predict": "",
    "fedcmi export": "",
    "fedcmi run --recipe cremad": (
        "--rounds 1 --num-nodes 8 --set local-epochs=1 --set min-partition-size=2 --set "
        "batch-size=8 --set lr-decay-start=-1 --set view-size=32"
    ),
    "fedcmi run --resume": "",
    "fedcmi run": "--rounds 1 --num-nodes 4 --set local-epochs=1 --set wait-timeout=400",
    "fedcmi bench av-digits --methods fedcmi-plus --set dp": f"--seeds 2 {SMALL}",
    "fedcmi bench avmnist-half-skewed --methods fedcmi,": (
        f"--seeds 2 --methods fedcmi,fedcmi-plus {SMALL} --set num-server-rounds=2 --set "
        "evaluate-from=2"
    ),
    "fedcmi bench avmnist": f"--seeds 2 --methods fedcmi-plus {SMALL}",
    "fedcmi bench": f"--seeds 2 --methods fedavg,fedcmi-plus {SMALL}",
    "fedcmi tune": f"--methods fedavg {SMALL}",
    "fedcmi report": "",
    "export ": "",
    "flwr run": "--run-config 'num-server-rounds=1 local-epochs=1'",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project, so that what the commands write stays out of the real one."""
    copy = tmp_path_factory.mktemp("readme") / "fedcmi"
    anywhere = shutil.ignore_patterns("__pycache__", ".*_cache")

    def ignored(directory: str, names: list[str]) -> set[str]:
        """Leave out what is no source; below the top, `data` is a room of the library."""
        at_the_top = {".git", ".venv", "runs", "data"} if Path(directory) == ROOT else set()
        return anywhere(directory, names) | at_the_top.intersection(names)

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def avmnist_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive in AV-MNIST's layout.

    60 test recordings, and enough for its 1,000 training ones.
    """
    raw = tmp_path_factory.mktemp("raw")
    (raw / "recordings").mkdir()
    tone = np.sin(2 * np.pi * 440 * np.arange(2000) / 8000)
    for digit, index in itertools.product(range(10), range(4, 120)):
        soundfile.write(
            raw / "recordings" / f"{digit}_ann_{index}.wav", tone * (1 + digit) / 11, 8000, "PCM_16"
        )
    labels = np.arange(1200, dtype=np.uint8) % 10
    images = np.random.default_rng(0).integers(0, 256, (1200, 28, 28), dtype=np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (raw / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return raw


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, avmnist_raw: Path) -> dict[str, Path]:
    """Return what stands in the README for directories of the reader's."""
    own, crisismmd, videos = (
        tmp_path_factory.mktemp(name) for name in ("own", "crisismmd", "videos")
    )
    arrays.write_arrays(own / "toys.npz")
    tabular.write_manifest(own)
    tabular.write_crisismmd(crisismmd)
    media.write_cremad(videos / "cremad")
    media.write_ave(videos / "ave", videos=4)
    tokenizer = tabular.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return {
        "AVMNIST": avmnist_raw, "OWNDATA": own, "CRISISMMD": crisismmd, "BERT": tokenizer,
        "ARRAYS": own, "CREMAD": videos / "cremad", "AVE": videos / "ave",
        "DIGIT.wav": avmnist_raw / "recordings" / "7_ann_8.wav",
    }  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment of a new user.

    An empty home, and a port for Flower's local SuperLink.
    """
    port = str(free_port())
    home = tmp_path_factory.mktemp("home")
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    exports = dict(
        line.removeprefix("export ").split("=", 1)
        for line in COMMANDS
        if line.startswith("export ")
    )
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "FEDCMI_"))
    }
    yield {
        **clean,
        **exports,
        "PATH": paths,
        "HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port,
    }
    stop_superlink(port)


def stop_superlink(port: str) -> None:
    """Stop the SuperLink that `flwr run` left on our port, found by its arguments, by pid."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it ended meanwhile
            continue
        if (
            any(argument.endswith("flower-superlink") for argument in arguments)
            and port in arguments
        ):
            os.kill(int(process.name), signal.SIGTERM)
            deadline = time.monotonic() + 30
            while (process / "cmdline").exists() and time.monotonic() < deadline:
                time.sleep(0.2)


def shortened(command: str, archives: dict[str, Path]) -> str:
    extra = next((more for start, more in SHORTER.items() if command.startswith(start)), None)
    assert extra is not None, (
        f"command {command!r} of a README has no entry here: say how to execute it"
    )
    line = f"{command} {extra}"
    for name, directory in archives.items():
        line = line.replace(name, str(directory))
    return line


def test_readme_has_its_commands() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert len(COMMANDS) >= 30


def test_no_page_with_commands_is_forgotten() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in markdown.pages()]
    assert {page for page in pages if blocks(page, "sh")} == {*DOCUMENTS, *RUN_BY_OTHERS}
    assert [test for test in RUN_BY_OTHERS.values() if not (ROOT / test).is_file()] == []
    assert [
        page
        for page in DOCUMENTS
        if re.search(r"^ +```sh", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    ] == []


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    readme, results = (
        (ROOT / page).read_text("utf-8") for page in ("README.md", "server_app/bench/RESULTS.md")
    )
    rows = re.findall(r"^\| [\w-]+ \|(?: [\d.]+ ± .*\|)+$", readme, re.MULTILINE)
    assert len(rows) == 4
    assert [row for row in rows if row not in results] == []


def test_readme_fits_in_one_reading() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 250


def elsewhere(command: str) -> Path | None:
    """Return the file that runs a command of the README instead of this one."""
    return next((file for start, file in RUN_ELSEWHERE.items() if command.startswith(start)), None)


@pytest.mark.parametrize("command", [command for command in COMMANDS if elsewhere(command) is None])
def test_command(
    command: str,
    checkout: Path,
    environment: dict[str, str],
    archives: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = shortened(command, archives)
    if command.startswith("export "):
        assert environment[line.removeprefix("export ").partition("=")[0]] == "1"
        return
    if command.startswith(OWN_PROCESS):
        output = in_new_process(line, checkout, environment)
    else:
        monkeypatch.chdir(checkout)
        output = commands.line(line).output
    assert [words for words in expected(command) if words not in output] == [], output
    if command.startswith("fedcmi inspect"):
        assert (checkout / f"{command.split()[-1]}.png").is_file()


def expected(command: str) -> list[str]:
    """Return what a command must print."""
    last = command.split()[-1]
    words = {
        "flwr run": ["round 1/1 | loss fused", "sampled 2 of 2 nodes"],
        "fedcmi run --method": ["round 1/1 | loss fused"],
        "fedcmi predict": ["[audio]" if last.endswith(".wav") else "by audio)"],
        "fedcmi export": ["export.json"],
        "fedcmi report": [f"report: {last}/report.html"],
        "fedcmi bench": ["(2 seeds, target"],
    }
    return next((said for start, said in words.items() if command.startswith(start)), [])


def in_new_process(line: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a line of the shell, which must succeed; return all that it prints."""
    done = subprocess.run(
        line,
        shell=True,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.match("fedcmi (bench (?!--suite)|tune )", c)]
)
def test_benches_can_be_planned_as_they_stand(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, rows, tuned values, baseline and keys.

    What :func:`shortened` puts in the place of some is not run.
    """
    monkeypatch.chdir(ROOT)
    name, *arguments = shlex.split(command)[1:]
    given = parsed(name, arguments)
    chosen = choose_settings(
        given["settings"], given["methods"], given.get("baseline"), given["num_nodes"]
    )
    rows = chosen.rows
    assert chosen.baseline in {row.stem for row in rows}
    tuned: dict[str, dict[str, Scalar]] = {}
    if given.get("tuned") is not None and Path(given["tuned"]) not in TUNED_BEFORE:
        tuned = read_tuned(Path(given["tuned"]))
        assert {row.stem for row in rows} & set(tuned)
    configs = bench_configs(
        chosen.values, rows, tuned, {"data": given["data"]}, given["set_"] or []
    )
    planned = plan(configs, given["seeds"], chosen.num_nodes, Path(given["out"]))
    assert len(planned) == len(chosen.values) * len(rows) * given["seeds"]
    assert all(read_run_config(experiment.config) for experiment in planned)


def test_readme_has_its_benches() -> None:
    assert sum(command.startswith("fedcmi bench ") for command in COMMANDS) >= 9
    assert Path("runs/tune/tuned.toml") in TUNED_BEFORE


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if elsewhere(command) is not None]
)
def test_the_others_are_run_where_this_file_says(command: str) -> None:
    file = elsewhere(command)
    assert file is not None
    assert command in file.read_text(encoding="utf-8")


def test_the_deployment_of_the_readme_is_one(tmp_path: Path) -> None:
    (block,) = blocks("server_app/deploy/README.md", "toml")
    (tmp_path / "nodes.toml").write_text(block, encoding="utf-8")
    plan = read_nodes_toml(tmp_path / "nodes.toml", secure=True)
    assert [(node.name, node.modalities) for node in plan.nodes] == [
        ("edge-1", ("audio", "visual")),
        ("edge-2", ("audio",)),
    ]


def test_python_snippets(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, predicting = blocks("README.md", "python")
    assert blocks("fedcmi_flwr/inference/README.md", "python") == [predicting]
    names: dict[str, object] = {}
    exec(strategy, names)
    assert type(names["strategy"]).__name__ == "ModalityStrategy"
    monkeypatch.chdir(checkout)
    names["spectrograms"] = np.load("data/avmnist/test/audio.npy")
    exec(predicting, names)
    assert np.shape(names["chances"]) == (60, 10)
