"""How the server initialises a new model, beside what torch's layers do by themselves."""

from collections.abc import Iterable

from torch import nn

from fedcmi_flwr.config.names import INITIALIZATIONS


def initialize(model: nn.Module, kind: str, pretrained: Iterable[nn.Module] = ()) -> None:
    """Draw the weights of a new model from torch's global generator.

    Parameters
    ----------
    model
        Changed in place.
    kind
        One of INITIALIZATIONS. "xavier-kaiming": linear layers get Xavier's uniform weights and
        no bias, convolutions Kaiming's normal weights by fan-out; every other layer and the
        convolutions' biases stay as torch made them.
    pretrained
        Parts that keep their weights.

    Raises
    ------
    ValueError
        An unknown kind.
    """
    if kind not in INITIALIZATIONS:
        raise ValueError(f"initialization {kind!r}: not one of {list(INITIALIZATIONS)}.")
    if kind == "torch":
        return

    kept = {id(module) for part in pretrained for module in part.modules()}
    for module in model.modules():
        if id(module) in kept:
            continue
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
