"""A wrapped model starts as the project's own does with the same method."""

from dataclasses import replace

import pytest
import torch

from fedcmi_flwr.client import WrappedModel, wrap
from fedcmi_flwr.methods import METHODS, Method

PLUS = METHODS["fedcmi-plus"]
MODALITIES = ("image", "text")


def new_model(method: str | Method, projector: str = "linear") -> WrappedModel:
    torch.manual_seed(0)
    encoders = {name: torch.nn.Linear(3, 4) for name in MODALITIES}
    return wrap(encoders, 2, method=method, embedding_dim=5, projector=projector)


def same(left: WrappedModel, right: WrappedModel) -> set[str]:
    """Return the names of the arrays that are equal."""
    other = right.state_dict()
    return {name for name, value in left.state_dict().items() if torch.equal(value, other[name])}


def test_projectors_of_fedcmi_plus_start_as_the_identity_and_nothing_else_changes() -> None:
    model, usual = new_model("fedcmi-plus"), new_model("fedcmi")
    for name in MODALITIES:
        branch = model.branch(name)
        for projector in (branch.self_projector, branch.infiltration_projector):
            torch.testing.assert_close(projector.weight, torch.eye(5))
            assert not projector.bias.any()
    others = {name for name in model.state_dict() if "projector" not in name}
    assert same(model, usual) == others


@pytest.mark.parametrize("name", METHODS)
def test_a_wrapped_model_has_what_the_method_does_to_a_new_model(name: str) -> None:
    """What ``server_app`` calls on the project's own model would change nothing any more."""
    model, again = new_model(name), new_model(name)
    METHODS[name].initialize(again)
    assert same(model, again) == set(model.state_dict())


@pytest.mark.parametrize(
    ("method", "projector"),
    [(replace(PLUS, identity_projectors=False), "linear"), (PLUS, "mlp")],  # type: ignore[type-var]
)
def test_hyperparameters_and_other_projectors_leave_the_start_to_torch(
    method: Method, projector: str
) -> None:
    model, usual = new_model(method, projector), new_model("fedcmi", projector)
    assert same(model, usual) == set(model.state_dict())


@pytest.mark.parametrize("method", ["fedcmi-plus", PLUS])
def test_a_model_that_was_wrapped_for_another_method_is_initialized_later(
    method: str | Method,
) -> None:
    model, expected = new_model("fedcmi"), new_model("fedcmi-plus")
    model.initialize(method)
    assert same(model, expected) == set(model.state_dict())


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match=r"fedcmi-pluss.*fedcmi-plus"):
        new_model("fedcmi").initialize("fedcmi-pluss")
