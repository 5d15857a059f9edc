"""Flower's command line as this project calls it.

One ``flwr run``, and the truth about how it ended.

``flwr run`` and ``flwr log`` exit 0 even when the ServerApp failed; what the SuperLink says
about the run decides.
"""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from server_app.launch.patience import Patience
from server_app.launch.run_log import first_exception, keep_log, tail

if TYPE_CHECKING:  # torch, which comes with it, takes longer to import than all else
    from fedcmi_flwr.types import Scalar

START_TIMEOUT = 180.0
"""Seconds that a SuperLink may take to answer on a busy machine; one that ends is not
waited for."""
CALL_TIMEOUT = 60.0
"""Seconds that one short command may take."""
CONNECTION = "fedcmi"
"""Name of the SuperLink connection in a Flower home of ours."""
COMPLETED = "finished:completed"
UNFINISHED = ("pending", "starting", "running")
"""How the status of a run begins that goes on."""
ASK_AGAIN = 2.0
"""Seconds between two looks at a run that ``flwr run`` does not follow any more."""
UNANSWERED = 3
"""Such looks in a row that may fail: a connection may be cut for a while."""


class FlowerRunError(RuntimeError):
    """A Flower run that did not complete; the text holds the server's reason."""


def flower_environment(home: Path, import_roots: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment that Flower's processes need.

    A home of their own, no installations, no telemetry.

    Parameters
    ----------
    home
        Flower's home.
    import_roots
        Directories with Python packages that the app needs besides the installed ones.

    Returns
    -------
    Variable -> value.
    """
    known = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*([known] if known else []), *import_roots]),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def program(name: str) -> str:
    """Return where one of Flower's programs is: beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def connection_file(address: str, authority: Path | None) -> str:
    """Return Flower's configuration of one connection, for ``$FLWR_HOME/config.toml``.

    Parameters
    ----------
    address
        Of the SuperLink, "host:port".
    authority
        Certificate to check it by; None: no TLS.

    Returns
    -------
    TOML.
    """
    trust = (
        "insecure = true"
        if authority is None
        else f"root-certificates = {json.dumps(str(authority))}"
    )
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = '
        f'"{address}"\n{trust}\n'
    )


def is_healthy(address: str, authority: Path | None) -> bool:
    """Return whether a SuperLink answers.

    Parameters
    ----------
    address
        "host:port".
    authority
        Certificate to check it by; None: no TLS.

    Returns
    -------
    False also where its certificate is not the authority's.
    """
    trust = ssl.create_default_context(cafile=authority) if authority is not None else True
    scheme = "http" if authority is None else "https"
    try:
        return httpx.get(
            f"{scheme}://{address}/health", timeout=2.0, verify=trust, trust_env=False
        ).is_success
    except httpx.HTTPError:
        return False


def wait_until_healthy(
    address: str, authority: Path | None, runs: Callable[[], bool], log: Path
) -> None:
    """Return when a SuperLink answers.

    Parameters
    ----------
    address
        As for :func:`is_healthy`.
    authority
        As for :func:`is_healthy`.
    runs
        Whether its process is there.
    log
        What it prints.

    Raises
    ------
    FlowerRunError
        It ended, or ``START_TIMEOUT`` is over.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and runs():
        if is_healthy(address, authority):
            return
        time.sleep(0.2)

    how = (
        f"did not answer within {START_TIMEOUT:.0f} s"
        if runs()
        else "ended as soon as it was started"
    )
    raise FlowerRunError(f"flower-superlink {how}:\n{first_exception(tail(log)) or tail(log)}")


def ask(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Run ``flwr ARGUMENTS --format json`` and return what it says.

    Parameters
    ----------
    environment
        See :func:`flower_environment`.
    *arguments
        Command and its arguments.

    Returns
    -------
    The answer; ``success`` is true in it.

    Raises
    ------
    FlowerRunError
        It failed or did not answer; the text is its own.
    """
    command = [program("flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_TIMEOUT,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise FlowerRunError(f"`flwr {' '.join(arguments)}` did not answer: {error}") from error

    if not answer.get("success"):
        raise FlowerRunError(
            f"`flwr {' '.join(arguments)}`: {answer.get('error-message', done.stdout)}"
        )

    return answer


def run_app(
    project: Path,
    run_config: "Mapping[str, Scalar]",
    home: Path,
    while_running: Callable[[], None],
    *more: str,
) -> None:
    """Hand the app to the SuperLink of a Flower home and wait for the run's end.

    Parameters
    ----------
    project
        Directory with ``pyproject.toml``.
    run_config
        Run-config keys to override; paths must be absolute.
    home
        Flower home with the connection; gets the log.
    while_running
        Called a few times a second, and once after the end, to show progress; what it raises
        ends the waiting.
    *more
        More arguments of ``flwr run``.

    Raises
    ------
    FlowerRunError
        The run did not start or did not complete.
    """
    from fedcmi_flwr.config.texts import write_toml

    environment, run_dir = flower_environment(home), Path(str(run_config.get("run-dir", home)))
    settings = home / "run-config.toml"
    # On the command line, Flower ends texts at a quote
    settings.write_text(write_toml(run_config), encoding="utf-8")
    command = [program("flwr"), "run", str(project), CONNECTION, "--stream", "--format", "json"]
    command += ["--run-config", str(settings), *more]
    log, patience = home / "run.log", Patience(run_dir)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=project, stdout=output, stderr=output
        )
        try:
            while process.poll() is None and not patience.is_over():
                time.sleep(0.3)
                while_running()
        finally:
            process.terminate()
            process.wait()

    while_running()
    status = wait_for_end(lambda: _status(log, environment), while_running, patience.is_over)
    if status.startswith(UNFINISHED):
        with contextlib.suppress(FlowerRunError):
            stop_run(home)

    if status != COMPLETED:
        raise FlowerRunError(why_failed(run_dir, log, environment, status))


def wait_for_end(
    status: Callable[[], str],
    while_running: Callable[[], None],
    is_over: Callable[[], bool] = lambda: False,
) -> str:
    """Return how a run ended.

    The end of ``flwr run``, which only follows it, need not be the run's.

    Parameters
    ----------
    status
        Asks the SuperLink.
    while_running
        As for :func:`run_app`.
    is_over
        Whether to wait no longer.

    Returns
    -------
    The last status, "finished:..." unless the run never started or was waited for long enough.

    Raises
    ------
    FlowerRunError
        The SuperLink did not answer ``UNANSWERED`` times in a row.
    """
    unanswered = 0
    while True:
        try:
            found, unanswered = status(), 0
        except FlowerRunError:
            unanswered += 1
            if unanswered == UNANSWERED:
                raise
        else:
            if not found.startswith(UNFINISHED) or is_over():
                break

        time.sleep(ASK_AGAIN)
        while_running()

    while_running()

    return found


def stop_run(home: Path) -> None:
    """Stop the run that :func:`run_app` started with this home, if it did."""
    run_id = _run_id(home / "run.log")
    if run_id is not None:
        ask(flower_environment(home), "stop", run_id, CONNECTION)


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    return port


def _status(log: Path, environment: Mapping[str, str]) -> str:
    """Ask the SuperLink how the run ended."""
    run_id = _run_id(log)
    if run_id is None:
        return "not started"

    answer = ask(environment, "list", CONNECTION, "--run-id", run_id)
    try:
        return str(answer["runs"][0]["status"])
    except LookupError as error:
        raise FlowerRunError(f"`flwr list` does not know the run {run_id}: {answer}") from error


def _run_id(log: Path) -> str | None:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"run-id"' in line:
            return line.partition(":")[2].strip(' ",')

    return None


def why_failed(run_dir: Path, log: Path, environment: Mapping[str, str], status: str) -> str:
    """Return why a run did not complete.

    What the ServerApp said, else the first exception of Flower's log.

    Parameters
    ----------
    run_dir
        Where the ServerApp says it, unless the disk was full, and where the log is kept.
    log
        Of ``flwr run``; gets Flower's.
    environment
        Of Flower's commands.
    status
        What the SuperLink says.

    Returns
    -------
    The reason.
    """
    error = run_dir / "error.txt"
    said = error.read_text(encoding="utf-8").splitlines() if error.is_file() else []
    if said:
        return f"the run ended as {status!r}. The server said:\n{said[0]}"

    run_id = _run_id(log)
    if run_id is not None:
        # `flwr run --stream --format json` waits for the end, but does not print the server's log
        with log.open("a", encoding="utf-8") as output:
            command = [program("flwr"), "log", run_id, CONNECTION]
            with contextlib.suppress(subprocess.TimeoutExpired):
                # What it has printed until then is in the log
                subprocess.run(
                    command,
                    env=dict(environment),
                    stdout=output,
                    stderr=output,
                    timeout=CALL_TIMEOUT,
                    check=False,
                )

    found = first_exception(log.read_text(encoding="utf-8", errors="replace"))
    because = (
        f": {found}\nThe whole log is in"
        if found
        else f". The end of its log:\n{tail(log)}\nAll of it is in"
    )

    return f"the run ended as {status!r}{because} {keep_log(log, run_dir)}."
