"""What was killed is started again, though what it had started is still there."""

import os
import signal
from pathlib import Path

from sites import make_site, require

from server_app.deploy import processes
from server_app.deploy.rehearsal import Rehearsal


def test_a_killed_proxy_is_started_again_though_its_worker_has_the_port(tmp_path: Path) -> None:
    require("nginx", "nginx-light")
    site = make_site(tmp_path)
    rehearsal = Rehearsal(site.kit)
    proxy = rehearsal.home / "proxy"
    shown: list[str] = []
    try:
        rehearsal.up(["superlink", "proxy"], [], shown.append)
        master = processes.pid_of(proxy)
        assert master is not None
        workers = set(processes.family(proxy)) - {master}

        os.kill(master, signal.SIGKILL)
        os.waitpid(master, 0)
        assert set(processes.family(proxy)) == workers
        assert workers

        rehearsal.up(["proxy"], [], shown.append)
        assert shown[-1] == f"proxy: {site.address}"
        assert workers.isdisjoint(processes.family(proxy))
    finally:
        rehearsal.down()
    assert [
        found
        for name in ("superlink", "proxy")
        for found in processes.family(rehearsal.home / name)
    ] == []
