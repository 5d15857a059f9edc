"""The wheel, alone.

Built, installed beside the gate's packages but not the checkout, and run as users run it.

The directory that it is run in has what another Flower project has: a package ``client_app`` and
a module ``server_app``; both raise when they are imported.
"""

import ast
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
TOP = ("client_app", "server_app", "data_prep")
CHECKED_OUT = tuple(f"{ROOT / name}{os.sep}" for name in ("fedcmi_flwr", *TOP))
WATCH = """
import os, sys
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith({paths!r}):
        with open({log!r}, "a") as log:
            log.write(arguments[0] + chr(10))
sys.addaudithook(watch)
"""
"""Python code of every process of the environment: writes down which of the checkout's files are
opened."""
SCRIPT = """#!{python}
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({name}())
"""
"""What installers make of an entry point; processes that are forked from a server import it once
more."""
NODES = """
[superlink]
address = "127.0.0.1:18000"
data = "/srv/data"

[[node]]
name = "edge"
modalities = ["audio", "visual"]
data = "/srv/data"
"""
SMALL = "--num-nodes 2 --set local-epochs=1"
COMMANDS = [
    "--version",
    "prep av-digits",
    f"run --rounds 2 {SMALL} --run-dir run --set wait-timeout=300",
    f"bench av-digits --methods fedavg --seeds 1 --out bench {SMALL} --set num-server-rounds=1",
    f"tune av-digits --methods late-fusion --out tuned {SMALL} --set num-server-rounds=1",
    "predict run --data cache/av-digits",
    "report run",
    "deploy init kit --nodes nodes.toml",
    "deploy status kit",
]


class Installed:
    """A virtual environment with the wheel, and a directory to work in."""

    def __init__(self, home: Path, wheel: Path) -> None:
        self.work, self.log, self._bin = home / "work", home / "opened.txt", home / "venv" / "bin"
        venv.create(home / "venv", with_pip=False)
        paths = {"base": str(home / "venv"), "platbase": str(home / "venv")}
        packages = Path(sysconfig.get_path("purelib", "venv", paths))
        with ZipFile(wheel) as archive:
            archive.extractall(packages)

        gate = Path(sysconfig.get_path("purelib"))
        # A line of it reads no .pth there: not that of the checkout
        (packages / "gate.pth").write_text(f"{gate}\n")
        (packages / "sitecustomize.py").write_text(
            WATCH.format(paths=CHECKED_OUT, log=str(self.log))
        )
        for metadata in (
            next(packages.glob("fedcmi_flwr-*.dist-info")),
            *gate.glob("flwr-*.dist-info"),
        ):
            for script in PathDistribution(metadata).entry_points.select(group="console_scripts"):
                self._write_script(script)

        (self.work / "client_app").mkdir(parents=True)
        for path in ("client_app/__init__.py", "server_app.py"):
            (self.work / path).write_text("raise AssertionError('of another project')\n")
        (self.work / "nodes.toml").write_text(NODES)

    def _write_script(self, script: EntryPoint) -> None:
        path = self._bin / script.name
        path.write_text(
            SCRIPT.format(python=self._bin / "python", module=script.module, name=script.attr)
        )
        path.chmod(0o755)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the directory."""
        own = {"FEDCMI_CACHE": str(self.work / "cache"), "FLWR_HOME": str(self.work / "flwr")}
        environment = {**os.environ, **own}
        environment.pop("PYTHONPATH", None)
        program = [str(self._bin / command[0]), *command[1:]]
        return subprocess.run(
            program,
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def opened(self) -> list[str]:
        """Return which of the checkout's files were opened since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(directory.iterdir())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_one_package_with_everything_in_it(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fedcmi_flwr"}
    recipes = {
        f"fedcmi_flwr/_apps/{path.relative_to(ROOT)}"
        for path in (ROOT / "server_app/recipes").rglob("*.toml")
    }
    assert recipes | {"fedcmi_flwr/py.typed", "fedcmi_flwr/_apps/app.toml"} <= {*names}


def test_no_import_is_left_of_a_package_at_the_top(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        sources = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    imported = {(name, top) for name, source in sources.items() for top in _imported(source)}
    assert {top for _, top in imported} >= {"fedcmi_flwr", "torch"}
    assert [name for name, top in imported if top in TOP] == []


def _imported(source: bytes) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain | named}


def test_the_watch_sees_the_checkout(installed: Installed) -> None:
    """Else the next test could not fail."""
    done = installed.run(
        "python", "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import data_prep"
    )
    assert done.returncode == 0, done.stderr
    assert f"{ROOT / 'data_prep'}/" in "".join(installed.opened())


def test_every_command_runs_from_the_wheel_alone(installed: Installed) -> None:
    for command in COMMANDS:
        done = installed.run("fedcmi", *command.split())
        assert done.returncode == 0, (command, done.stdout + done.stderr)
        assert installed.opened() == [], command
    for left in ("run/report.html", "bench/table.md", "tuned/tuned.toml", "kit/README.md"):
        assert (installed.work / left).is_file(), left
