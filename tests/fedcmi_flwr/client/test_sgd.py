"""fedcmi_flwr.client.sgd and adamw.

Torch's bit for bit, and a node that trains without what they import.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedcmi_flwr.client.adamw import AdamW
from fedcmi_flwr.client.sgd import SGD

TRAIN = """
import sys
from pathlib import Path
import numpy, oracle
from federated import federate
data = oracle.prepare(Path(sys.argv[1]) / "toy", dict.fromkeys(("audio", "visual"), numpy.ones(16, dtype=bool)))
federate(Path(sys.argv[1]) / "run", data, ("audio+visual",), optimizer=sys.argv[2]).round(1)
print(sorted({"torch._dynamo", "sklearn", "torchaudio"} & {*sys.modules}))
"""


def parameters() -> list[torch.nn.Parameter]:
    """Return three parameters, each time with the same values."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator))
        for shape in ((3, 4), (4,), (2, 2, 5))
    ]


Optimizer = SGD | AdamW | torch.optim.Optimizer


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torch(momentum: float, weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    its = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    _check_five_steps(ours, theirs, (SGD(ours, 0.1, momentum, weight_decay), its))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_adamws_steps_are_those_of_torch(weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    its = torch.optim.AdamW(theirs, lr=0.01, weight_decay=weight_decay)
    _check_five_steps(ours, theirs, (AdamW(ours, 0.01, weight_decay), its))


def test_adamws_first_step_by_hand() -> None:
    """Both moments are those of one gradient: w (1 - lr decay) - lr sign(g), but for epsilon."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    w.grad = torch.tensor([3.0, -0.5])
    AdamW([w], 0.1, 0.2).step()
    assert w.tolist() == pytest.approx([0.98 - 0.1, -1.96 + 0.1])


def _check_five_steps(
    ours: list[torch.nn.Parameter],
    theirs: list[torch.nn.Parameter],
    optimizers: tuple[Optimizer, Optimizer],
) -> None:
    """Compare steps; the second parameter has no gradient in the first one and none in the third.

    It stays.
    """
    generator = torch.Generator().manual_seed(2)
    for turn in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for place, pair in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(pair[0].shape, generator=generator)
            for parameter in pair:
                parameter.grad = None if place == 1 and turn in (0, 2) else gradient.clone()
        before = ours[1].detach().clone()
        for optimizer in optimizers:
            optimizer.step()
        assert all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))
        assert torch.equal(before, ours[1]) == (turn in (0, 2))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_node_trains_without_what_takes_seconds_to_import(optimizer: str, tmp_path: Path) -> None:
    """On a device every message starts a process: see :mod:`fedcmi_flwr.client.sgd`."""
    helpers = Path(__file__).parents[2] / "helpers"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(helpers)!r}]\n{TRAIN}", str(tmp_path), optimizer],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
