"""A bad day of a deployment.

Real processes on loopback, with TLS and node authentication, started as a user does.

The commands are those of server_app/deploy/README.md: ``fedcmi deploy init deployment --nodes
nodes.toml``, ``fedcmi deploy up deployment``, ``fedcmi deploy run deployment --run-dir
runs/edge``, ``fedcmi deploy status deployment``, ``fedcmi deploy run deployment --run-dir
runs/edge --resume`` and ``fedcmi deploy down deployment``.

What happens in the six rounds:

    1   edge-both, edge-both-2 and edge-audio train; a stranger is turned away; edge-visual tries with a wrong authority
    2   edge-audio is lost while it trains, and of edge-both the process that trains; edge-visual joins
    3   edge-both-2 raises, since its data are gone; a new device takes edge-audio's place; the certificate is renewed
    4   the SuperLink is killed after the round's checkpoint, started again, and the run resumed
    5-6 all train; edge-both-2 is revoked, and tries all that a device might; another run is interrupted
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edges
import psutil

from server_app.deploy import processes, services
from server_app.deploy.certificates import make_node_key, new_authority
from server_app.deploy.deployment import Device
from server_app.deploy.rehearsal import site_of
from server_app.launch.flower_cli import (
    CONNECTION,
    ask,
    connection_file,
    flower_environment,
    free_port,
    program,
)
from server_app.launch.run_log import tail
from server_app.run.directory import read_metrics

REPOSITORY = Path(__file__).parents[2]
ROUNDS = 6
SETTINGS = {
    "num-server-rounds": ROUNDS,
    "local-epochs": 3,
    "batch-size": 4,
    "lr": 0.005,
    "round-timeout": 300.0,
}
"""Steps enough that a process can be killed while it trains."""
LONG = 900.0
"""Seconds that nothing takes, on a busy machine either."""
EVIL_PROJECT = """
[project]
name = "evil"
version = "1.0.0"
[tool.flwr.app]
publisher = "evil"
[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "evil:app"
"""
FEDCMI = [sys.executable, "-m", "server_app.commands.main"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


class Story:
    """Everything that happens, in order; what is checked afterwards stays on the disk.

    Parameters
    ----------
    root
        An empty directory, the user's working directory.
    data
        Prepared av-digits.
    """

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        self.parts = edges.cut(data, root / "data")
        self.kit, self.run_dir = root / "deployment", root / "runs" / "edge"
        self.home = self.kit / "rehearsal"
        self.stranger = self.kit / "stranger"
        self.commands: list[subprocess.Popen[bytes]] = []
        self.status = ""
        self.certificates: list[str] = []
        self.attacks: dict[str, str] = {}
        self.stranger_ended = False
        self.runs: list[dict[str, Any]] = []

    def tell(self) -> None:
        """Do it all."""
        (self.root / "nodes.toml").write_text(
            edges.nodes_toml(self.data, self.parts), encoding="utf-8"
        )
        self.fedcmi("fedcmi deploy init deployment --nodes nodes.toml")
        self.fedcmi("fedcmi deploy up deployment --without edge-visual")
        settings = " ".join(f"--set {key}={value}" for key, value in SETTINGS.items())
        training = self.begin(f"fedcmi deploy run deployment --run-dir runs/edge {settings}", "run")
        self.start_stranger()
        wrong = self.begin_with_a_wrong_authority()
        self.kill_while_they_train()
        self.end(wrong, 1)
        shutil.copyfile(
            self.kit / "server" / "ca.crt", self.home / "edge-visual" / "device" / "ca.crt"
        )
        self.fedcmi("fedcmi deploy up deployment --only edge-visual")
        self.wait_for_round(2)
        description = self.parts["edge-both-2"] / "dataset.json"
        description.rename(self.root / "moved.json")
        self.certificates.append(self.shown_certificate())
        self.fedcmi("fedcmi deploy renew deployment")
        self.fedcmi("fedcmi deploy replace deployment edge-audio")
        again = self.begin("fedcmi deploy up deployment --only edge-audio", "again")
        self.wait_for_round(3)
        (self.root / "moved.json").rename(description)
        self.end(again, 0)
        self.certificates.append(self.shown_certificate())
        self.wait("round 4's checkpoint", (self.run_dir / "checkpoints" / "round-000004").is_dir)
        os.kill(int((self.home / "superlink.pid").read_text()), signal.SIGKILL)
        self.end(training, 1)
        restarted = time.time()
        self.fedcmi("fedcmi deploy up deployment --only superlink")
        self.wait("the devices' return", lambda: self.all_are_back(restarted))
        resumed = self.begin("fedcmi deploy run deployment --run-dir runs/edge --resume", "resumed")
        self.end(resumed, 0)
        self.status = self.fedcmi("fedcmi deploy status deployment --json")
        self.fedcmi("fedcmi deploy revoke deployment edge-both-2")
        self.wait(
            "the revoked device's end", lambda: "the SuperNode ended" in self.log("edge-both-2")
        )
        self.attack()
        self.interrupt_a_run()
        self.stranger_ended = processes.pid_of(self.home / "stranger") is None
        processes.stop(self.home / "stranger")
        self.fedcmi("fedcmi deploy down deployment")

    def all_are_back(self, since: float) -> bool:
        """Return whether the SuperLink has heard every device since a moment.

        Two are enough for a run to go on.
        """
        site = site_of(self.kit)
        try:
            known = site.registered()
        finally:
            site.control.close()

        return all(
            name in known and known[name].online and known[name].last_seen > since
            for name in edges.EDGES
        )

    def interrupt_a_run(self) -> None:
        """Begin another run and end its command while it trains."""
        run = self.begin(
            "fedcmi deploy run deployment --run-dir runs/interrupted", "interrupted-run"
        )
        self.wait(
            "its first round",
            (self.root / "runs" / "interrupted" / "checkpoints" / "round-000001").is_dir,
        )
        second = self.begin("fedcmi deploy run deployment --run-dir runs/second", "second-run")
        self.end(second, 1)
        run.terminate()
        self.end(run, 143)
        self.runs = ask(flower_environment(self.home / "superlink"), "list", CONNECTION)["runs"]

    def kill_while_they_train(self) -> None:
        """Kill all of edge-audio, and the client's process of edge-both, each when it trains in
        round 2.
        """
        waiting = {"edge-audio": "", "edge-both": "flwr-clientapp"}

        def all_are_killed() -> bool:
            for place, name in enumerate(edges.EDGES):
                if name in waiting and f"round 2: partition {place} holds" in self.log(name):
                    self.kill(name, waiting.pop(name))
            return not waiting

        self.wait("the training of round 2", all_are_killed)

    def kill(self, name: str, program: str) -> None:
        """Kill those processes of a device that run a program; all of them where it is empty."""
        for number in processes.family(self.home / name):
            with contextlib.suppress(psutil.NoSuchProcess):  # its parent took it along
                process = psutil.Process(number)
                if program in " ".join(process.cmdline()):
                    process.kill()

    def shown_certificate(self) -> str:
        """Return the certificate that the server shows its devices."""
        host, _, port = self.address().partition(":")
        return ssl.get_server_certificate((host, int(port)))

    def address(self) -> str:
        """Return where devices reach the server."""
        return f"127.0.0.1:{json.loads((self.home / 'ports.json').read_text())['proxy']}"

    def attack(self) -> None:
        """Try what somebody can who has all files of a device.

        To come back with a fresh key, and to submit a run.
        """
        home, app = self.root / "attacker", self.root / "evil-app"
        home.mkdir()
        app.mkdir()
        make_node_key(home, "fresh")
        authority = self.home / "edge-both-2" / "device" / "ca.crt"
        (home / "config.toml").write_text(
            connection_file(self.address(), authority), encoding="utf-8"
        )
        (app / "pyproject.toml").write_text(EVIL_PROJECT, encoding="utf-8")
        (app / "evil.py").write_text("app = None\n", encoding="utf-8")
        register = [
            "supernode",
            "register",
            str(home / "key.pub"),
            CONNECTION,
            "--name",
            "edge-both-2",
        ]
        for name, command in (("register", register), ("submit", ["run", str(app), CONNECTION])):
            done = subprocess.run(
                [program("flwr"), *command],
                env=flower_environment(home),
                capture_output=True,
                text=True,
                timeout=LONG,
            )
            self.attacks[name] = done.stdout + done.stderr

    def start_stranger(self) -> None:
        """Start a SuperNode with the right authority and a key that nobody registered."""
        self.stranger.mkdir()
        make_node_key(self.stranger, "stranger")
        shutil.copyfile(self.kit / "server" / "ca.crt", self.stranger / "ca.crt")
        node = Device("stranger", 4, ("audio",), str(self.parts["edge-audio"]))
        command = services.supernode_command(
            True, node.config, self.stranger, self.address(), free_port()
        )
        environment = flower_environment(self.stranger)
        processes.start(self.home / "stranger", [program(command[0]), *command[1:]], environment)

    def begin_with_a_wrong_authority(self) -> subprocess.Popen[bytes]:
        """Have edge-visual join as its guide says, and begin to start it with the certificate of
        somebody else.
        """
        token = self.fedcmi("fedcmi deploy token deployment edge-visual").strip()
        device = self.home / "edge-visual" / "device"
        self.fedcmi(f"fedcmi deploy join {token} --home '{device}'")
        (device / "ca.crt").write_bytes(new_authority().text)
        return self.begin("fedcmi deploy up deployment --only edge-visual", "wrong-authority")

    def begin(self, command: str, name: str) -> subprocess.Popen[bytes]:
        """Begin a command; its output goes to ``NAME.txt``."""
        first, *arguments = shlex.split(command)
        assert first == "fedcmi"
        with (self.root / f"{name}.txt").open("wb") as output:
            process = subprocess.Popen(
                [*FEDCMI, *arguments], cwd=self.root, env=ENVIRONMENT, stdout=output, stderr=output
            )
        self.commands.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], status: int) -> None:
        """Wait for a command's end, which must have this status."""
        self.wait(f"the end of {process.args}", lambda: process.poll() is not None)
        assert process.returncode == status, self.said(
            f"{process.args} ended with {process.returncode}"
        )

    def fedcmi(self, command: str) -> str:
        """Run a command, which must succeed, and return its output."""
        name = f"{len(self.commands)}-{command.split()[2]}"
        self.end(self.begin(command, name), 0)
        return self.printed(name)

    def wait_for_round(self, number: int) -> None:
        """Wait until a round's record is written."""

        def is_written() -> bool:
            written = (self.run_dir / "metrics.jsonl").is_file() and read_metrics(self.run_dir)
            return bool(written) and written[-1]["round"] >= number

        self.wait(f"round {number}", is_written)

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something, with a bound.

        Say what the processes printed when it does not come.
        """
        deadline = time.monotonic() + LONG
        while not is_so():
            assert time.monotonic() < deadline, self.said(
                f"{what} did not come within {LONG:.0f} s"
            )
            time.sleep(0.1)

    def said(self, problem: str) -> str:
        """Return a problem with the end of every log and every command's output."""
        files = [*sorted(self.root.glob("*.txt")), *sorted(self.home.glob("*.log"))]
        return "\n".join([problem, *(f"--- {file}\n{tail(file)}" for file in files)])

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def printed(self, name: str) -> str:
        """Return what a command has printed."""
        return (self.root / f"{name}.txt").read_text(encoding="utf-8")

    def clear_away(self) -> None:
        """Stop what still runs, when something went wrong."""
        for process in self.commands:
            process.kill()
            process.wait()
        if (self.kit / "deployment.json").is_file():
            subprocess.run(
                [*FEDCMI, "deploy", "down", str(self.kit)],
                env=ENVIRONMENT,
                check=True,
                timeout=LONG,
            )
        processes.stop(self.home / "stranger")


def left_running(root: Path) -> list[str]:
    """Return the processes whose environment or arguments name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(process / name).read_bytes() for name in ("environ", "cmdline")]
        except OSError:  # it ended, or it is not ours
            continue
        if any(os.fsencode(root) in text for text in texts):
            found.append(texts[1].replace(b"\0", b" ").decode())
    return found
