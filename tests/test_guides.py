"""The guides, followed from nothing to a result.

That of devices is followed in tests/server_app/deploy.
"""

import re
from pathlib import Path

import commands
import nbclient
import nbformat
import pytest
import tabular

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "server_app" / "guides"
QUICKSTART = ROOT / "tests" / "example_apps" / "quickstart"
SMALL = "--num-nodes 2 --set num-server-rounds=1 --set local-epochs=1 --set min-partition-size=2"
SHORTER = {
    "prep": "--image-size 16 --seconds 0.5 --workers 1",
    "tune": f"--methods fedavg {SMALL}",
    "bench": f"--methods fedcmi-plus --seeds 2 {SMALL}",
}


def blocks(guide: str, language: str) -> list[str]:
    """Return the blocks of code of a guide."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_a_comparison_on_ones_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OWNDATA").mkdir()
    tabular.write_manifest(tmp_path / "OWNDATA")
    (settings,) = blocks("comparison.md", "toml")
    (tmp_path / "own.toml").write_text(settings, encoding="utf-8")

    for command in "".join(blocks("comparison.md", "sh")).splitlines():
        commands.line(f"{command} {SHORTER.get(command.split()[1], '')}")
    table = (tmp_path / "runs" / "own" / "table.md").read_text(encoding="utf-8")
    assert re.search(r"^\| fedcmi-plus .*± ", table, re.MULTILINE)
    assert (tmp_path / "data" / "own.png").is_file()
    assert (tmp_path / "runs" / "own" / "report.html").is_file()


def test_the_notebook_of_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, with one method, fewer seeds, nodes and rounds."""
    (tmp_path / "OWNDATA").mkdir()
    tabular.write_manifest(tmp_path / "OWNDATA")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(GUIDES / "comparison.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)

    parameters.source += (
        '\nMETHODS, NODES, ROUNDS, SEEDS = "fedcmi-plus", 2, 1, 2'
        f"\nPREP_OPTIONS = {SHORTER['prep']!r}"
        '\nRUN_OPTIONS = "--set local-epochs=1 --set min-partition-size=2"'
    )
    kernel = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=kernel).execute()

    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert "image/png" in outputs[2][0].data
    assert re.search(r"^\| fedcmi-plus .*± ", outputs[-2][0].data["text/markdown"], re.MULTILINE)
    assert "fedcmi-plus" in (tmp_path / "runs" / "own" / "results.csv").read_text(encoding="utf-8")


def test_what_changes_in_an_existing_app_is_what_the_quickstart_has() -> None:
    """Which tests/test_example_apps.py runs, before and after."""
    files = [QUICKSTART / name for name in ("task.py", "client_after.py", "server_after.py")]
    there = {line for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    told = "\n".join(blocks("existing_app.md", "python")).splitlines()
    assert len(told) > 12
    assert [line for line in told if line not in there] == []
