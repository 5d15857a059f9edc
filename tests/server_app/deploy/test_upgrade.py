"""Another version for the devices.

Offered by the server, fetched over the kit's own proxy and registrar.
"""

import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from sites import Proxied, make_site
from typer.testing import CliRunner

from server_app.commands.main import app
from server_app.deploy import audit, upgrade
from server_app.deploy.deployment import DeploymentError, read_deployment
from server_app.deploy.join import join
from server_app.deploy.reports import Report, send_form
from server_app.deploy.server_check import UnreachableError
from server_app.deploy.site import Site

REPORT = Report(0.25, 5e9, "0.1.0", "1.41.0", "0123456789abcdef", "00", "")


def fresh(server: Proxied) -> Site:
    """Return the site with the devices that there are now."""
    return replace(server.site, deployment=read_deployment(server.site.kit))


def wheel(folder: Path, number: str, name: str = "fedcmi-flwr", says: str | None = None) -> Path:
    """Write a wheel with little in it."""
    path = folder / f"fedcmi_flwr-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {says or number}\n"
        file.writestr(f"fedcmi_flwr-{number}.dist-info/METADATA", text)
    return path


def test_a_device_fetches_what_the_server_offers(server: Proxied, tmp_path: Path) -> None:
    site, home = fresh(server), tmp_path / "device"
    join(str(site.issue_token("edge-0")), home)
    with pytest.raises(UnreachableError, match=r"refused it \(404\): no other version is offered"):
        upgrade.fetch(home)

    runner = CliRunner()
    for number in ("7.0.0", "7.1.0"):
        done = runner.invoke(
            app, ["deploy", "upgrade", str(site.kit), str(wheel(tmp_path, number))]
        )
        assert (done.exit_code, f"{number} is offered" in done.output) == (0, True)
        done = runner.invoke(app, ["deploy", "fetch", str(home)])
        assert done.exit_code == 0, done.output
    assert [path.name for path in (site.kit / "server" / "upgrade").iterdir()] == [
        "fedcmi_flwr-7.1.0-py3-none-any.whl"
    ]
    (fetched,) = (home / "upgrade").iterdir()
    # The registrar of the test prints there too
    assert done.output.replace("\n", "").endswith(str(fetched))
    assert fetched.read_bytes() == (tmp_path / fetched.name).read_bytes()

    first, second = (entry for entry in audit.entries(site.state) if entry["what"] == "upgrade")
    assert (first["version"], first["removed"]) == ("7.0.0", [])
    assert (second["version"], second["removed"]) == (
        "7.1.0",
        ["fedcmi_flwr-7.0.0-py3-none-any.whl"],
    )
    assert len(second["sha256"]) == 64


def test_each_device_s_version_is_shown(server: Proxied, tmp_path: Path) -> None:
    site = fresh(server)
    upgrade.offer(site, wheel(tmp_path, "7.1.0"))
    runs = {"edge-1": "7.0.0", "edge-2": "7.1.0", "edge-3": "8.0.0", "edge-4": "nonsense"}
    for name, number in runs.items():
        join(str(site.issue_token(name)), tmp_path / name)
        body, headers = send_form(replace(REPORT, version=number), name, tmp_path / name / "key")
        assert server.client.post("/fedcmi/report", content=body, headers=headers).is_success
    done = CliRunner().invoke(app, ["deploy", "upgrade", str(site.kit)])
    assert done.exit_code == 0
    lines = dict(line.split(": ", 1) for line in done.output.splitlines())
    assert lines["edge-1"] == "7.0.0, flwr 1.41.0 (behind, wanted: 7.1.0)"
    states = {each.name: each.state for each in upgrade.versions(site)}
    expected = {"edge-1": "behind", "edge-2": "as wanted", "edge-3": "ahead", "edge-4": "not known"}
    assert states == {
        **dict.fromkeys((node.name for node in site.deployment.active), "not known"),
        **expected,
    }


def test_without_an_offer_devices_should_run_what_the_server_runs(tmp_path: Path) -> None:
    assert {each.wanted for each in upgrade.versions(make_site(tmp_path))} == {
        version("fedcmi-flwr")
    }


@pytest.mark.parametrize("how", ["name", "project", "version", "bytes", "missing", "two"])
def test_what_is_no_wheel_of_this_project_is_refused(
    server: Proxied, tmp_path: Path, how: str
) -> None:
    site = fresh(server)
    good = wheel(tmp_path, "7.2.0")
    before = upgrade.offered(site)
    bad = {
        "name": lambda: good.rename(tmp_path / "other-7.2.0-py3-none-any.whl"),
        "project": lambda: wheel(tmp_path, "7.2.0", name="other"),
        "version": lambda: wheel(tmp_path, "7.2.0", says="7.3.0"),
        "bytes": lambda: (good.write_bytes(good.read_bytes()[:-30]), good)[1],
        "missing": lambda: (good.unlink(), good)[1],
        "two": lambda: tmp_path,
    }[how]()
    with pytest.raises(DeploymentError, match="not a wheel of this project"):
        upgrade.offer(site, bad)
    assert upgrade.offered(site) == before


def test_a_server_whose_offer_was_spoiled_gives_a_device_nothing(
    server: Proxied, tmp_path: Path
) -> None:
    site, home = fresh(server), tmp_path / "device"
    join(str(site.issue_token("edge-5")), home)
    upgrade.offer(site, wheel(tmp_path, "7.4.0"))
    offered = upgrade.offered(site)
    assert offered is not None
    offered.write_bytes(b"half")
    with pytest.raises(DeploymentError, match="not a wheel of this project"):
        upgrade.fetch(home)
    assert not (home / "upgrade").exists()
    offered.unlink()
