"""Every room has a README that names every module in it, and nothing that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedcmi_flwr", "client_app", "data_prep", "server_app")
WHOLE = ("client_app", "data_prep")
"""Packages with one README for all of their rooms."""
MADE_BY_RUNS = ("runs", "server")
"""Directories that are named in documents, and that runs and deployments make."""


def rooms() -> list[Path]:
    """Return the directories that must have a README."""
    found = [ROOT / package for package in WHOLE]
    for package in sorted(set(PACKAGES) - set(WHOLE)):
        found += [file.parent for file in sorted((ROOT / package).glob("*/__init__.py"))]
    return found


def modules(room: Path) -> list[str]:
    """Return the room's modules, each by its path below the room."""
    found = (path.relative_to(room).as_posix() for path in sorted(room.rglob("*.py")))
    return [path for path in found if not path.endswith("__init__.py")]


def spans(text: str) -> list[str]:
    """Return what stands between single backticks outside of blocks of code."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def named_files(text: str) -> list[str]:
    """Return the Python files and directories that a README names."""
    return [span for span in spans(text) if re.fullmatch(r"[\w./-]+(\.py|/)", span)]


def resolved(room: Path, name: str) -> Path | None:
    """Return where a name leads from its room, its package or the project; None: nowhere."""
    package = ROOT / room.relative_to(ROOT).parts[0]
    return next((base / name for base in (room, package, ROOT) if (base / name).exists()), None)


def walks(text: str) -> dict[str, list[str]]:
    """Return the steps of each section of a README whose title begins with "Walk"."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    named = {section.partition("\n")[0]: section for section in sections}
    return {
        title: re.findall(r"^\d+\. (.+(?:\n {3}.+)*)", section, re.MULTILINE)
        for title, section in named.items()
        if title.startswith("Walk")
    }


READMES = [room / "README.md" for room in rooms()]
WALKS = [
    pytest.param(path, title, steps, id=f"{path.parent.name}: {title}")
    for path in READMES
    if path.is_file()
    for title, steps in walks(path.read_text(encoding="utf-8")).items()
]


def test_the_rooms_are_found() -> None:
    names = {room.relative_to(ROOT).as_posix() for room in rooms()}
    assert {"client_app", "data_prep", "fedcmi_flwr/wire", "server_app/commands"} <= names
    assert "pipeline/writer.py" in modules(ROOT / "data_prep")


@pytest.mark.parametrize(
    "readme", READMES, ids=lambda path: path.parent.relative_to(ROOT).as_posix()
)
def test_a_room_says_what_is_in_it(readme: Path) -> None:
    text, room = readme.read_text(encoding="utf-8"), readme.parent
    named = {resolved(room, name) for name in named_files(text)}
    assert [module for module in modules(room) if room / module not in named] == []
    assert [name for name in named_files(text) if resolved(room, name) is None] == []


@pytest.mark.parametrize(
    "readme", READMES, ids=lambda path: path.parent.relative_to(ROOT).as_posix()
)
def test_links_of_a_room_lead_somewhere(readme: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", readme.read_text(encoding="utf-8"))
    relative = [link for link in links if not link.startswith("https://")]
    assert [link for link in relative if not (readme.parent / link).exists()] == []


@pytest.mark.parametrize(
    "document", ["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"]
)
def test_what_the_project_says_of_its_files_is_so(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = [span for span in spans(text) if re.fullmatch(r"[\w-]+(/[\w.-]+)+\.(py|toml|md)", span)]
    files = [path for path in paths if path.split("/")[0] not in MADE_BY_RUNS]
    links = [
        link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not link.startswith("https://")
    ]
    assert [path for path in (*files, *links) if not (ROOT / path).exists()] == []


def test_the_walks_are_written_down() -> None:
    assert {parameters.values[0].parent.relative_to(ROOT).as_posix() for parameters in WALKS} == {
        "client_app", "data_prep", "fedcmi_flwr/config", "fedcmi_flwr/data", "fedcmi_flwr/evaluation",
        "fedcmi_flwr/machine", "fedcmi_flwr/simulation", "fedcmi_flwr/strategy", "fedcmi_flwr/wire",
        "server_app/commands", "server_app/figures", "server_app/pages",
    }  # fmt: skip


@pytest.mark.parametrize(("readme", "title", "steps"), WALKS)
def test_a_walk_visits_no_file_twice(readme: Path, title: str, steps: list[str]) -> None:
    """A step begins with a file and the functions in it.

    `path.py`, `function`, `Class.method`: what happens.
    """
    visited = []
    for step in steps:
        file, *functions = spans(step.partition(":")[0])
        path = resolved(readme.parent, file)
        assert path is not None, f"{title}: {file} is not there"
        visited.append(path)
        source = path.read_text(encoding="utf-8")
        for function in (name for whole in functions for name in whole.split(".")):
            assert re.search(rf"\b(def|class) {function}\b", source), (
                f"{title}: no {function} in {file}"
            )
    assert len(steps) >= 4
    assert len(visited) == len(set(visited)), title
