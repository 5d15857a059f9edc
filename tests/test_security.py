"""Claims of SECURITY.md that the code can be asked about."""

import ast
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.wire.packing import WireError, unpack
from server_app.pyproject import default_run_config
from server_app.run.records import round_record

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for name in ("fedcmi_flwr", "client_app", "server_app", "data_prep")
    for path in (ROOT / name).rglob("*.py")
)
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


LOADERS = ("torch.load", ".read_pickle")


def pickles(source: str) -> list[str]:
    """Return what a module's source does with pickles, or could."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "pandas"):
            # Missed below
            found += [alias.name for alias in node.names if alias.name in ("load", "read_pickle")]
    for name, call in _calls(tree):
        allowed = [
            k for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
        ]
        found += (
            [ast.unparse(call)]
            if allowed or name.endswith(LOADERS) or name in {"eval", "exec"}
            else []
        )
        found += (
            [ast.unparse(call)]
            if name in ("np.load", "numpy.load") and any(k.arg is None for k in call.keywords)
            else []
        )
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    assert pickles(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from cloudpickle import loads", "torch.load(p)", "np.load(p, allow_pickle=True)",
     "np.load(p, **options)", "numpy.load(p, **options)", "np.load(p, allow_pickle=flag)", "pandas.read_pickle(p)",
     "from torch import load"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert len(pickles(source)) == 1


def test_a_pickled_array_in_a_message_is_not_loaded() -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("it was unpickled",))

    buffer = BytesIO()
    np.save(buffer, np.array([Planted()], dtype=object), allow_pickle=True)
    array = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())
    layout = ConfigRecord({"audio": '[["w", "object", [1]]]'})
    with pytest.raises(WireError):
        unpack(ArrayRecord({"audio/object": array}), layout)


def test_every_key_of_a_rounds_record_stands_in_the_table() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = text.partition("a line of metrics.jsonl holds:")[2].partition("\nNot protected either")[
        0
    ]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert named == set(round_record(0, {}, None))


def test_no_key_of_the_configuration_is_a_secret() -> None:
    keys = read_run_config(default_run_config()).raw
    assert not [key for key in keys if re.search("secret|token|password|private|credential", key)]
