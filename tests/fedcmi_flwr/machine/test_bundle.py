"""In Flower's simulation process the working directory becomes that of the app that Flower loads,
and nowhere else.
"""

import os
import sys
from pathlib import Path

import pytest

from fedcmi_flwr.machine.bundle import enter_bundle


@pytest.mark.parametrize("program", ["/usr/bin/flwr-simulation", "/usr/bin/flwr-clientapp"])
def test_the_bundle_is_what_flower_put_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    bundle, earlier = tmp_path / "bundle", tmp_path / "earlier"
    for app in (bundle, earlier):
        app.mkdir()
        (app / "pyproject.toml").write_text("[project]\n")
    monkeypatch.chdir(earlier)
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(bundle), str(earlier)])
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    enter_bundle()
    inside = program.endswith("simulation")
    assert Path.cwd() == (bundle if inside else earlier)
    assert environment == ({"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} if inside else {})
