"""Names from outside: what is found by which name, and what somebody is told who wrote another."""

from pathlib import Path

import pytest

from fedcmi_flwr.lookup import (
    Kind,
    MissingPackageError,
    UnknownNameError,
    find,
    import_path,
    package_of,
)

MODULE = """
RED, BLUE, SMALL = 10, 20, "small"
class Shades:
    DARK = 30
"""


def _accept(found: object) -> int:
    if not isinstance(found, int):
        raise TypeError("a colour is an integer.")
    return found


COLOUR = Kind("colour", "test.colours", {"red": 1, "green": 2}, _accept)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory on ``sys.path`` with one installed package."""
    _install(tmp_path, "paints", "red = paints:RED\nblue = paints:BLUE\ndark = paints:Shades.DARK")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def _install(site: Path, name: str, offers: str) -> None:
    (site / f"{name}.py").write_text(MODULE)
    metadata = site / f"{name}-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (metadata / "RECORD").write_text(f"{name}.py,,\n")
    (metadata / "entry_points.txt").write_text(f"[test.colours]\n{offers}\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("green", 2, id="built in"),
        pytest.param("red", 1, id="built in, whatever a package offers under that name"),
        pytest.param("blue", 20, id="entry point"),
        pytest.param("dark", 30, id="entry point of an attribute in a class"),
        pytest.param("paints:RED", 10, id="import path"),
        pytest.param("paints:Shades.DARK", 30, id="import path of an attribute in a class"),
    ],
)
def test_what_a_name_stands_for(site: Path, name: str, value: int) -> None:
    assert find(COLOUR, name) == value


def test_where_it_comes_from(site: Path) -> None:
    assert COLOUR.names == ["blue", "dark", "green", "red"]
    assert [import_path(COLOUR, name) for name in ("blue", "paints:RED")] == [
        "paints:BLUE",
        "paints:RED",
    ]
    assert [package_of(COLOUR, name) for name in ("red", "blue", "paints:RED")] == [
        "",
        "paints 1.5",
        "paints 1.5",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "bleu",
            r"colour = 'bleu': not one of \['blue', 'dark', 'green', 'red'\], nor an import path .*'blue'\?",
        ),
        ("paints:", "colour = 'paints:': not one of"),
        ("paints:BLEU", "colour = 'paints:BLEU': paints has no 'BLEU'. Did you mean 'BLUE'?"),
        ("paints:Shades", "is the class Shades; a colour is an integer"),
        ("paints:SMALL", "is an object of the class str; a colour is an integer"),
        ("broken:RED", "importing broken failed, ZeroDivisionError: division by zero"),
        ("needy:RED", "importing needy failed, it needs 'not_there'"),
    ],
)
def test_what_is_not_found_says_what_to_do(site: Path, name: str, words: str) -> None:
    (site / "broken.py").write_text("1 / 0\n")
    (site / "needy.py").write_text("import not_there\n")
    with pytest.raises(UnknownNameError, match=words):
        find(COLOUR, name)


def test_a_missing_package_is_to_be_installed_everywhere() -> None:
    with pytest.raises(
        MissingPackageError, match=r"no module 'absent' here. Install.*server and of every node"
    ):
        find(COLOUR, "absent.colours:RED")


def test_two_packages_of_one_name_are_told_apart_by_their_import_paths(site: Path) -> None:
    _install(site, "inks", "blue = inks:BLUE")
    with pytest.raises(
        UnknownNameError, match=r"more than one .* offers it; .*'inks:BLUE', 'paints:BLUE'"
    ):
        find(COLOUR, "blue")
    assert find(COLOUR, "inks:BLUE") == 20
