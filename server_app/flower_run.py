"""``fedcmi run`` on Flower's simulation: a SuperLink of its own, one ``flwr run``, and the truth about how it ended.

``flwr run`` alone leaves a resident SuperLink that keeps the environment of its first start, and exits 0 when the
ServerApp crashes. Here each run has its own SuperLink on loopback, which is stopped by its process handle at the end,
and the run's status decides the outcome.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from fedcmi_flwr.methods import Scalar
from server_app.companion import GRACE

START_TIMEOUT = 60.0
"""Seconds that a SuperLink may take to answer."""
CONNECTION = "fedcmi"
"""Name of the SuperLink connection in the private Flower home."""


class FlowerRunError(RuntimeError):
    """A Flower run that did not complete; the text holds the server's reason."""


def run_on_flower(
    project: Path,
    run_config: Mapping[str, Scalar],
    num_nodes: int,
    num_gpus: float,
    while_running: Callable[[], None],
) -> None:
    """Run the app in ``project`` in a Ray simulation and wait for its end.

    Parameters
    ----------
    project
        Directory with ``pyproject.toml``.
    run_config
        Run-config keys to override; paths must be absolute.
    num_nodes
        Simulated nodes.
    num_gpus
        GPU share of each client, 0 for none.
    while_running
        Called a few times a second, and once after the end, to show progress.

    Raises
    ------
    FlowerRunError
        The run did not start or did not complete.
    """
    with tempfile.TemporaryDirectory(prefix="fedcmi-flower-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        environment = flower_environment(home)
        with superlink(home, environment):
            federation = f"num-supernodes={num_nodes} client-resources-num-cpus=1 client-resources-num-gpus={num_gpus}"
            command = [_program("flwr"), "run", str(project), CONNECTION, "--stream", "--format", "json"]
            command += ["--run-config", to_toml(run_config), "--federation-config", federation]
            log = home / "run.log"
            with log.open("w", encoding="utf-8") as output:
                process = subprocess.Popen(command, env=environment, cwd=project, stdout=output, stderr=output)
                try:
                    while process.poll() is None:
                        time.sleep(0.3)
                        while_running()
                finally:
                    process.terminate()
            while_running()
            status = _status(log, environment)
            if status != "finished:completed":
                raise FlowerRunError(_reason(Path(str(run_config.get("run-dir", home))), log, environment, status))


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment that Flower's processes need: a home of their own, no installations, no telemetry."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


@contextlib.contextmanager
def superlink(home: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Start a SuperLink for simulations on a free loopback port, and stop it at the end.

    Parameters
    ----------
    home
        Directory for its connection file and log.
    environment
        See :func:`flower_environment`.

    Yields
    ------
    The port.
    """
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    command = [
        *(sys.executable, str(Path(__file__).with_name("companion.py"))),  # or it would live on after a kill -9 of us
        _program("flower-superlink"),
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = home / "superlink.log"
    with log.open("w", encoding="utf-8") as output:
        # a session of its own, so that an interrupted run's simulation processes can be ended with it
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait_for(process, port, log)
            yield port
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a companion's command and what it started."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=3 * GRACE)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success:
                return
        time.sleep(0.2)
    raise FlowerRunError(f"flower-superlink did not start within {START_TIMEOUT:.0f} s:\n{_tail(log)}")


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def to_toml(values: Mapping[str, Scalar]) -> str:
    """Return flat values as one line of TOML, as ``flwr run --run-config`` takes it."""
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _status(log: Path, environment: Mapping[str, str]) -> str:
    """Ask the SuperLink how the run ended."""
    run_id = _run_id(log)
    if run_id is None:
        return "not started"
    command = [_program("flwr"), "list", CONNECTION, "--run-id", run_id, "--format", "json"]
    answer = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=60)
    try:
        runs: list[dict[str, Any]] = json.loads(answer.stdout)["runs"]
        return str(runs[0]["status"])
    except (ValueError, LookupError) as error:
        raise FlowerRunError(f"`flwr list` did not answer ({error}): {answer.stdout}{answer.stderr}") from error


def _run_id(log: Path) -> str | None:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"run-id"' in line:
            return line.partition(":")[2].strip(' ",')
    return None


def _reason(run_dir: Path, log: Path, environment: Mapping[str, str], status: str) -> str:
    error = run_dir / "error.txt"
    if error.is_file():
        return f"the run ended as {status!r}. The server said:\n{error.read_text(encoding='utf-8').splitlines()[0]}"
    run_id = _run_id(log)
    if run_id is not None:  # `flwr run --stream --format json` waits for the end, but does not print the server's log
        with log.open("a", encoding="utf-8") as output:
            command = [_program("flwr"), "log", run_id, CONNECTION]
            subprocess.run(command, env=dict(environment), stdout=output, stderr=output, timeout=60, check=False)
    return f"the run ended as {status!r}. The end of its log:\n{_tail(log)}"


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
