"""The command of a checkout is the checkout's, whatever a user's own project has on the path."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_a_server_app_of_the_users_own_does_not_clash(tmp_path: Path) -> None:
    (tmp_path / "server_app.py").write_text("raise ImportError('the wrong one')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "from fedcmi_flwr.machine.console import main; main()", "--version"],
        env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:11]) == (0, "fedcmi-flwr"), done.stderr
