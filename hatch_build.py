"""Builds the wheel: the three packages of the checkout that have common names go inside `fedcmi_flwr`.

`client_app`, `server_app` and `data_prep` lie at the top of the checkout, where Flower users look for them. There, in
site-packages, they would clash with other Flower apps: a wheel has them as `fedcmi_flwr._apps.client_app` and so on,
with their imports of each other rewritten. An editable install is the checkout itself.
"""

import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("client_app", "server_app", "data_prep")
INSIDE = "fedcmi_flwr._apps"
"""Where the wheel has them."""
COMMANDS = "server_app.commands.main:app"
"""What `fedcmi` is."""
IMPORT = re.compile(rf"^(\s*)from ({'|'.join(PACKAGES)})(?=[. ])", re.MULTILINE)
"""The only form in which they import each other; tests/test_wheel.py sees that no other is left."""


class CustomBuildHook(BuildHookInterface):
    """Adds the packages to a wheel; leaves an editable install alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the rewritten packages where hatchling takes them from.

        Parameters
        ----------
        version
            "standard" or "editable".
        build_data
            Of hatchling; gets the directory.
        """
        if version != "standard":
            return
        self._made = Path(tempfile.mkdtemp())
        write_apps(Path(self.root), self._made)
        build_data["force_include"][str(self._made)] = INSIDE.replace(".", "/")

        scripts = self.metadata.core.scripts
        scripts["fedcmi"] = f"{INSIDE}.{COMMANDS}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what :meth:`initialize` made."""
        if version == "standard":
            shutil.rmtree(self._made)


def write_apps(root: Path, made: Path) -> None:
    """Write the package `fedcmi_flwr._apps`.

    Parameters
    ----------
    root
        The checkout.
    made
        An empty directory.
    """
    (made / "__init__.py").write_text(
        '"""The packages that a checkout has at its top."""\n', encoding="utf-8"
    )
    (made / "app.toml").write_text(flower_app(root), encoding="utf-8")
    for package in PACKAGES:
        shutil.copytree(
            root / package, made / package, ignore=shutil.ignore_patterns("__pycache__", "*.png")
        )
        for path in (made / package).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            path.write_text(IMPORT.sub(rf"\1from {INSIDE}.\2", source), encoding="utf-8")


def flower_app(root: Path) -> str:
    """Return the `pyproject.toml` of the Flower app that an installed wheel hands to Flower.

    Parameters
    ----------
    root
        The checkout.

    Returns
    -------
    The checkout's own without what only a checkout has, with the components where the wheel has them.
    """
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    left_out = ("readme", "license-files", "scripts")
    project = {key: value for key, value in table["project"].items() if key not in left_out}

    app = table["tool"]["flwr"]["app"]
    app["fab-include"] = ["fedcmi_flwr/**/*.py", f"{INSIDE.replace('.', '/')}/app.toml"]
    app["components"] = {
        name: f"{INSIDE}.{reference}" for name, reference in app["components"].items()
    }

    tools = {name: table["tool"][name] for name in ("flwr", "uv")}
    return tomli_w.dumps(
        {"project": project, "dependency-groups": table["dependency-groups"], "tool": tools}
    )
