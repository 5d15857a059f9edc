"""The library without its extras: what it does, and what it says about what is missing.

Extras are taken away by closing, in a process of its own, every package that the base alone does
not bring.
"""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
OURS = {"fedcmi_flwr", "client_app", "server_app", "data_prep"}
USE = """
import fedcmi_flwr
for name in fedcmi_flwr.__all__:
    getattr(fedcmi_flwr, name)

import kinds, numpy, saved, tempfile
from pathlib import Path
with tempfile.TemporaryDirectory() as name:
    path = saved.save(Path(name) / "model.safetensors", [kinds.SERIES])
    predictor = fedcmi_flwr.Predictor.load(path)
    print(predictor.predict({"motion": numpy.zeros((2, *kinds.SERIES.shape), kinds.SERIES.dtype)}).shape)
"""
RESNET = """
import kinds
from fedcmi_flwr.models.encoders import build_encoder
build_encoder("resnet18", kinds.IMAGE, 4)
"""

AUTO = """
import kinds
from fedcmi_flwr.models.encoders import build_encoder
build_encoder("auto", kinds.IMAGE, 4, options={"config": {"model_type": "vit"}})
"""
LORA = """
import torch
from fedcmi_flwr.models.adapters import attach
attach(torch.nn.Linear(2, 2), {"r": 2, "alpha": 4.0, "dropout": 0.0, "targets": []})
"""


def installed_with(name: str, extras: Sequence[str] = ()) -> set[str]:
    """Return the distributions that one brings, itself included, as its own metadata say."""
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while waiting:
        distribution, extra = waiting.pop()
        if (distribution, extra) in seen:
            continue
        seen.add((distribution, extra))
        for requirement in _requirements(distribution, extra):
            needed = canonicalize_name(requirement.name)
            waiting += [(needed, own) for own in ("", *requirement.extras)]
    return {distribution for distribution, _ in seen}


def _requirements(distribution: str, extra: str) -> list[Requirement]:
    try:
        listed = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:  # for another platform
        return []
    return [
        each for each in listed if each.marker is None or each.marker.evaluate({"extra": extra})
    ]


@cache
def closed() -> list[str]:
    """Return the importable names of all packages that the base does not bring."""
    base = installed_with("fedcmi-flwr")
    found = {
        name
        for name, homes in packages_distributions().items()
        if not base & {*map(canonicalize_name, homes)}
    }
    return sorted(found - OURS)


def without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code where nothing of the extras can be imported."""
    close = (
        f"import sys; sys.modules.update(dict.fromkeys({closed()!r})); sys.path[:0] = "
        "['tests/helpers']\n"
    )
    command = [sys.executable, "-c", close + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_base_brings_less_than_all() -> None:
    assert {"ray", "pandas", "torchvision", "torchaudio", "matplotlib", "scipy", "av"} <= {
        *closed()
    }
    assert not {"torch", "numpy", "flwr", "safetensors", "jaxtyping", "typer", "rich"} & {*closed()}


def test_the_base_is_the_strategy_and_the_model() -> None:
    done = without_extras(USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2,)\n"


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [(RESNET, "torchvision", "vision"), (AUTO, "transformers", "text"), (LORA, "peft", "lora")],
    ids=["resnet18", "auto", "lora"],
)
def test_an_encoder_or_adapter_names_its_extra(code: str, package: str, extra: str) -> None:
    last = without_extras(code).stderr.splitlines()[-1]
    assert last.endswith(
        f"the package {package} is needed and not installed; pip install 'fedcmi-flwr[{extra}]'."
    )


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["run"], "simulation"),
        (["tune", "av-digits", "--out", "out"], "simulation"),
        (["prep", "av-digits"], "prep"),
        (["report", "run"], "report"),
        (["deploy", "status", "kit"], "deploy"),
    ],
)
def test_a_command_says_in_one_sentence_what_to_install(arguments: list[str], extra: str) -> None:
    done = without_extras("from server_app.commands.main import app; app()", *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the package ")
    assert done.stderr.endswith(f"pip install 'fedcmi-flwr[{extra}]'.\n")


def test_keys_are_told_without_any_extra() -> None:
    done = without_extras("from server_app.commands.main import app; app()", "keys", "lr")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lr = 0.05\n")


def test_all_brings_every_extra_but_the_tools_and_the_services() -> None:
    """MLflow and Weights & Biases are large, and each is of use to who has it already."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    [everything] = extras["all"]
    assert Requirement(everything).extras == {*extras} - {"all", "dev", "mlflow", "wandb"}
