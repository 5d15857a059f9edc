"""``fedcmi run`` on Flower's simulation: a SuperLink of its own, and one run of the app on it.

``flwr run`` alone leaves a resident SuperLink that keeps the environment of its first start. Here each run has its own
on loopback; a companion process ends it, with all that it started, when this one is done or dead.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedcmi_flwr.types import Scalar
from server_app.launch.companion import GRACE
from server_app.launch.flower_cli import (
    connection_file,
    flower_environment,
    free_port,
    program,
    run_app,
    wait_until_healthy,
)


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
    with tempfile.TemporaryDirectory(prefix="fedcmi-flower-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with superlink(home, flower_environment(home, import_roots)):
            federation = f"num-supernodes={num_nodes} client-resources-num-cpus=1 client-resources-num-gpus={num_gpus}"
            run_app(project, run_config, home, while_running, "--federation-config", federation)


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
    command = [sys.executable, str(Path(__file__).with_name("companion.py"))]  # or it would outlive a kill -9 of us
    command += [program("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "superlink.log"
    with log.open("w", encoding="utf-8") as output:
        # a session of its own: Ctrl-C in the terminal reaches this process only, which then ends the companion's one
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
