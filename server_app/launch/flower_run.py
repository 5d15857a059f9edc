"""``fedcmi run`` on Flower's simulation: a SuperLink of its own, and one run of the app on it.

``flwr run`` alone leaves a resident SuperLink that keeps the environment of its first start.
Here each run has its own on loopback; a companion process ends it, with all that it started,
when this one is done or dead.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedcmi_flwr.types import Scalar
from server_app.launch.companion import GRACE
from server_app.launch.flower_cli import (
    FlowerRunError,
    connection_file,
    flower_environment,
    free_port,
    program,
    run_app,
    wait_until_healthy,
)

CLUSTER_TIMEOUT = 10.0
"""Seconds in which a Ray cluster must take a connection."""
LONGEST_RAY_DIRECTORY = 40
"""Characters; a socket's path has 107 at most, of which Ray's names below it take 64."""
SHELL_CHARACTERS = re.compile(r"""[\s"'\\$&;|<>()*?`]""")
"""What a shell does not take for a part of a name."""


def run_on_flower(
    project: Path,
    run_config: Mapping[str, Scalar],
    num_nodes: int,
    num_gpus: float,
    while_running: Callable[[], None],
    import_roots: Sequence[str] = (),
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
    import_roots
        Directories with Python packages that the app needs besides the installed ones.

    Raises
    ------
    FlowerRunError
        The run did not start or did not complete.
    """
    if os.name == "nt":
        raise FlowerRunError(
            "a simulation on Ray needs Linux or macOS; `--engine in-process` gives the same "
            "weights."
        )

    address = os.environ.get("RAY_ADDRESS", "")
    check_cluster(address)
    if not address:
        check_interpreter(sys.executable)

    with tempfile.TemporaryDirectory(prefix="fedcmi-flower-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with superlink(
            home, {**flower_environment(home, import_roots), "RAY_TMPDIR": ray_directory()}
        ):
            federation = (
                f"num-supernodes={num_nodes} client-resources-num-cpus=1 "
                f"client-resources-num-gpus={num_gpus}"
            )
            run_app(project, run_config, home, while_running, "--federation-config", federation)


def check_cluster(address: str) -> None:
    """Raise FlowerRunError where nothing listens at the address of a Ray cluster.

    Ray itself would wait for minutes.

    Parameters
    ----------
    address
        $RAY_ADDRESS, "host:port"; other forms are left to Ray.
    """
    found = re.fullmatch(r"(?:ray://)?([^:/]+):([0-9]{1,5})", address)
    if found is None:
        return

    try:
        socket.create_connection((found[1], int(found[2])), timeout=CLUSTER_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise FlowerRunError(
            f"RAY_ADDRESS = {address!r}: no Ray cluster answers there ({error}); start it, or "
            "unset RAY_ADDRESS to simulate on this machine."
        ) from error


def check_interpreter(path: str) -> None:
    """Raise FlowerRunError where Ray cannot start its processes by an interpreter's path.

    Ray hands it to a shell as it stands, and tries again for ever.

    Parameters
    ----------
    path
        Of Python, in the environment that has Ray.
    """
    found = SHELL_CHARACTERS.search(path)
    if found is not None:
        raise FlowerRunError(
            f"Ray cannot start {path!r}, since its path has {found[0]!r}: put the checkout and its "
            "environment where no folder's name has a space or a character of the shell, or "
            "simulate with `--engine in-process`, which gives the same weights."
        )


def ray_directory() -> str:
    """Return where Ray keeps its sockets, whose paths Linux limits.

    $RAY_TMPDIR, or a temporary directory.
    """
    chosen = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return "/tmp" if len(chosen) > LONGEST_RAY_DIRECTORY and os.access("/tmp", os.W_OK) else chosen


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
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(connection_file(address, None), encoding="utf-8")
    # Or it would outlive a kill -9 of us
    command = [
        sys.executable,
        str(Path(__file__).with_name("companion.py")),
    ]
    command += [
        program("flower-superlink"),
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = home / "superlink.log"
    with log.open("w", encoding="utf-8") as output:
        # a session of its own: Ctrl-C in the terminal reaches this process only, which then ends
        # the companion's one
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
            wait_until_healthy(address, None, lambda: process.poll() is None, log)
            yield port
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a companion's command and what it started."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=3 * GRACE)
