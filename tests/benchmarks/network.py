"""How long a deployed round takes on the way.

Real SuperLink and SuperNodes on loopback, nodes that train nothing.

Run it as ``python tests/benchmarks/network.py``. In turns in one run (``echo_app.py``):

* one array per tensor, as ``ArrayRecord(model.state_dict())`` sends them, on Flower's Grid;
* packed: one array per parameter group, the project's wire format, on the same Grid;
* the same with replies taken as they arrive, as the project's server does; also with float16 on
  the wire;
* no arrays: what a round takes for its processes and messages alone.

The bare transfer is that of the same bytes, down to both nodes and up again, through one TCP
connection on loopback; Flower moves each byte over several connections (server app, SuperLink,
SuperNode, client app).
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

from benchmarks.echo_app import BASELINE, NODES, ROUNDS  # noqa: E402

from server_app.deploy.deployment import Deployment, Device  # noqa: E402
from server_app.deploy.kit import write_kit  # noqa: E402
from server_app.deploy.rehearsal import HOST, Rehearsal  # noqa: E402
from server_app.launch.flower_cli import connection_file, free_port, run_app  # noqa: E402

PROJECT = """
[project]
name = "echo-app"
version = "1.0.0"
description = "Nodes that send back what they got"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedcmi"
fab-include = ["echo_app.py"]

[tool.flwr.app.components]
serverapp = "echo_app:server"
clientapp = "echo_app:client"

[tool.flwr.app.config]
megabytes = 90.0
tensors = 320
turns = 1
only = ""
output = ""
"""


def bare_transfer(size: int) -> float:
    """Return the seconds that so many bytes take there and back through a TCP connection on
    loopback.
    """
    data = memoryview(bytearray(size))
    with socket.create_server((HOST, 0)) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                receive(connection, size)
                connection.sendall(data)

        other = threading.Thread(target=echo)
        other.start()
        with socket.create_connection(listener.getsockname()) as connection:
            begin = time.perf_counter()
            connection.sendall(data)
            receive(connection, size)
            seconds = time.perf_counter() - begin
        other.join()
    return seconds


def receive(connection: socket.socket, size: int) -> None:
    """Take so many bytes."""
    buffer = bytearray(2**20)
    while size > 0:
        size -= connection.recv_into(buffer, min(size, len(buffer)))


def deployed(folder: Path, settings: dict[str, str | float]) -> dict[str, list[float]]:
    """Return name -> seconds of each turn's round."""
    app, home, output = folder / "echo-app", folder / "home", folder / "seconds.json"
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    shutil.copyfile(HERE / "echo_app.py", app / "echo_app.py")
    nodes = tuple(Device(f"node-{i}", i, ("audio", "visual"), str(folder)) for i in range(NODES))
    write_kit(folder / "deployment", Deployment(HOST, free_port(), str(folder), (), False, nodes))
    rehearsal = Rehearsal(folder / "deployment")
    try:
        rehearsal.up((), (), lambda line: None)
        (home / "config.toml").write_text(
            connection_file(rehearsal.site.superlink, None), encoding="utf-8"
        )
        run_app(app, {**settings, "output": str(output)}, home, lambda: None)
    finally:
        rehearsal.down()
    seconds: dict[str, list[float]] = json.loads(output.read_text(encoding="utf-8"))
    return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=90.0, help="of the model")
    parser.add_argument("--tensors", type=int, default=320)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--only", choices=ROUNDS, default="", help="beside one array per tensor; default: all"
    )
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    with tempfile.TemporaryDirectory(prefix="fedcmi-network-", ignore_cleanup_errors=True) as name:
        rounds = deployed(Path(name), vars(options))
    bare = statistics.median(bare_transfer(int(NODES * options.megabytes * 1e6)) for _ in range(3))
    plain = rounds[BASELINE]
    sys.stdout.write(
        f"{options.megabytes:g} MB in {options.tensors} tensors, {NODES} nodes, "
        f"{len(os.sched_getaffinity(0))} cores, median of {options.turns}; bare transfer "
        f"{bare:.2f} s\n"
    )
    for label, seconds in rounds.items():
        share = statistics.median(
            mine / theirs for mine, theirs in zip(seconds, plain, strict=True)
        )
        over = statistics.median(seconds) - bare
        sys.stdout.write(
            f"{label:<33}{statistics.median(seconds):7.1f} s {share:6.2f} x {over:+7.1f} s to "
            "bare\n"
        )


if __name__ == "__main__":
    main()
