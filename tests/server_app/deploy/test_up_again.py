"""What was killed is started again, though what it had started is still there."""

import os
import signal
import subprocess
from pathlib import Path

from sites import make_site, require
from story import ENVIRONMENT, FEDCMI

from server_app.deploy import processes
from server_app.deploy.rehearsal import REHEARSAL


def deploy(*arguments: str) -> str:
    """Run a command of the deployment, which must succeed."""
    done = subprocess.run(
        [*FEDCMI, "deploy", *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_proxy_is_started_again_though_its_worker_has_the_port(tmp_path: Path) -> None:
    require("nginx", "nginx-light")
    site = make_site(tmp_path)
    kit, home = str(site.kit), site.kit / REHEARSAL
    try:
        deploy("up", kit, "--only", "superlink", "--only", "proxy")
        master = processes.pid_of(home / "proxy")
        assert master is not None
        workers = set(processes.family(home / "proxy")) - {master}
        assert workers

        os.kill(master, signal.SIGKILL)
        assert workers <= set(processes.family(home / "proxy"))
        assert deploy("up", kit, "--only", "proxy") == f"proxy: {site.address}\n"
        assert workers.isdisjoint(processes.family(home / "proxy"))
    finally:
        deploy("down", kit)
    assert processes.family(home / "superlink") + processes.family(home / "proxy") == []
