"""The apps of tests/example_apps in this process, and what it takes to make one of a plain Flower
app.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.methods.applied import needs_client
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.testing import run_in_process
from server_app.launch.flower_run import run_on_flower

APPS = Path(__file__).parent / "example_apps"
NEED_CLIENT = [name for name, method in METHODS.items() if needs_client(method)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a function that imports the modules of an app, which are gone again after the test."""
    before = set(sys.modules)

    def modules(app: str, *names: str) -> list[ModuleType]:
        monkeypatch.syspath_prepend(str(APPS.parent / app))
        return [importlib.import_module(name) for name in names]

    yield modules
    for name in {"task", "app", "sensor_app", *(set(sys.modules) - before)} & {
        "task", "app", "sensor_app", "client_before", "client_after", "server_before", "server_after",
    }:  # fmt: skip
        sys.modules.pop(name, None)


@pytest.mark.parametrize("app", ["quickstart", "advanced"])
@pytest.mark.parametrize(("half", "most"), [("client", 15), ("server", 5)])
def test_few_lines_make_fedcmi_of_a_plain_app(load: object, app: str, half: str, most: int) -> None:
    """The client's lines are those of its file and of ``fedcmi_net`` in task.py, with what it
    imports.
    """
    texts = [(APPS / app / f"{half}_{when}.py").read_text("utf-8") for when in ("before", "after")]
    changes = list(difflib.ndiff(*(text.splitlines() for text in texts)))
    added = [line for line in changes if line.startswith("+ ") and line[2:].strip()]
    if half == "client":
        (task,) = load(f"example_apps/{app}", "task")
        added += [
            "from fedcmi_flwr.client import wrap",
            *inspect.getsource(task.fedcmi_net).splitlines(),
        ]
    assert 0 < len(added) <= most, added


@pytest.mark.parametrize("app", ["quickstart", "advanced"])
def test_an_app_learns_with_fedcmi_and_without(load: object, app: str) -> None:
    config = {"num-server-rounds": 3, "local-epochs": 2, "batch-size": 16}
    for when in ("before", "after"):
        client, server = load(f"example_apps/{app}", f"client_{when}", f"server_{when}")
        done = run_in_process(server.app, client.app, 3, config)
        measured = done.server.state["measured"]
        # Chance is 1/4 and 1/3
        assert measured["eval_acc" if app == "quickstart" else "accuracy"] > 0.7
    assert app == "quickstart" or done.server.state["turns"]["of-each"] == [3, 3, 3]


@pytest.mark.parametrize(
    ("app", "rounds"),
    [("quickstart", "num-server-rounds"), ("advanced", "num-server-rounds"), ("hugging_face", "rounds"),
     ("regression", "rounds")],
)  # fmt: skip
def test_an_app_runs_on_flower(app: str, rounds: str) -> None:
    """On Ray, from a bundle.

    A run that fails, in the server or because no reply can be used, raises.
    """
    run_on_flower(APPS / app, {rounds: 1}, num_nodes=2, num_gpus=0.0, while_running=lambda: None)


@pytest.mark.parametrize("method", ["fedcmi", "fedcmi-plus", "moon"])
def test_the_hugging_face_app_learns_with_any_method(load: object, method: str) -> None:
    pytest.importorskip("transformers")
    (app,) = load("example_apps/hugging_face", "app")
    done = run_in_process(app.server, app.client, 2, {"rounds": 4, "method": method})
    assert done.server.state["measured"]["accuracy"] > 0.6  # chance is 1/3


def test_the_regression_app_learns(load: object) -> None:
    (app,) = load("example_apps/regression", "app")
    done = run_in_process(app.server, app.client, 3, {"rounds": 3})
    assert done.server.state["measured"]["mse"] < 0.1


@pytest.mark.parametrize("name", NEED_CLIENT)
def test_a_method_that_a_plain_client_does_not_apply_is_refused(
    load: object, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (app,) = load("example_apps/regression", "app")
    strategy = app.FedCMI
    monkeypatch.setattr(
        app, "FedCMI", lambda *args, **options: strategy(*args, **{**options, "method": name})
    )
    with pytest.raises(
        RoundFailedError, match=rf"node 1001 .*method '{name}' was asked for, .*LocalObjective"
    ):
        run_in_process(app.server, app.client, 2, {"rounds": 1})


@pytest.mark.parametrize("name", METHODS)
def test_the_example_app_is_refused_with_every_method_but_its_own(
    load: object, tmp_path: Path, name: str
) -> None:
    (app,) = load("example_app", "sensor_app")
    config = {"rounds": 1, "output": str(tmp_path / "w.npz"), "method": name}
    if name == "fedcmi":
        run_in_process(app.server, app.client, 2, config)
        return
    with pytest.raises(
        RoundFailedError, match=r"node 1001 .*method '.*was asked for, .*LocalObjective"
    ):
        run_in_process(app.server, app.client, 2, config)
