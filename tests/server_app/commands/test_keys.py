"""`fedcmi keys` as a user calls it, and the README that it writes."""

from pathlib import Path

import pytest
import typer

from fedcmi_flwr.key_table import find_keys, key_sections
from server_app.commands import keys as command
from server_app.pyproject import default_run_config

README = Path("fedcmi_flwr") / "config" / "README.md"
ROOT = Path(__file__).parents[3]


def test_the_readme_is_current(tmp_path: Path) -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    fresh = tmp_path / "README.md"
    fresh.write_text(text, encoding="utf-8")
    command.keys(markdown=fresh)
    assert fresh.read_text(encoding="utf-8") == text, f"run: fedcmi keys --markdown {README}"


def test_all_keys_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    command.keys()
    lines = capsys.readouterr().out.splitlines()
    titles = [
        line.partition(" = ")[0] for line in lines if line and not line.startswith((" ", "["))
    ]
    assert titles == [
        key.name for section in key_sections(default_run_config()) for key in section.keys
    ]
    assert set(default_run_config()) < {*titles}


def test_one_key_in_full(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "WIDTH", 1000)
    command.keys("kappa")
    title, *facts = capsys.readouterr().out.splitlines()
    assert title == 'kappa = "default"'
    told = dict(fact.strip().split(": ", 1) for fact in facts)
    assert list(told) == ["allowed", "meaning", "used by", "fedavg-heads, fedcmi"]
    assert told["used by"] == "fedavg-heads 2.0, fedcmi 2.0"
    assert told["fedavg-heads, fedcmi"].startswith("FedCMI's local objective")


@pytest.mark.parametrize(
    ("name", "users"),
    [
        ("lr", "all"),
        ("projector", "fedavg-heads, fedcmi, fedcmi-plus"),
        ("gamma", "fedavg-heads 2.0, fedcmi 2.0, fedcmi-plus 1.0"),
        ("mu", "all 0.0, but fedprox 1.0, fedcmi 1.0, fedcmi-plus 0.1"),
    ],
)
def test_who_uses_a_key(name: str, users: str) -> None:
    (key,) = find_keys(key_sections(default_run_config()), name)
    assert command.used_by(key) == users


def test_an_unknown_name_ends_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        command.keys("lambdas")
    assert ended.value.exit_code == 1
    assert (
        "no key 'lambdas'; `fedcmi keys` shows all. Did you mean 'lambda'"
        in capsys.readouterr().err
    )


def test_a_file_without_markers_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text("# Keys\n", encoding="utf-8")
    with pytest.raises(typer.Exit):
        command.keys(markdown=tmp_path / "a.md")
    assert "needs a line '<!-- keys:" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "# Keys\n"
