"""LoRA (Hu et al., ICLR 2022) on the trunks of ``auto:`` encoders, by the optional package peft.

    adapter = "lora:r=8"                            on every trunk of ``auto:``
    adapter = "image=lora:r=8 text=lora:r=4,alpha=4,targets=query+key+value"

Only the low-rank factors of a trunk are trained and travel, with the rest of their modality's
branch. The server averages each factor by itself, as it does with all arrays; the product of
averages is not the average of products.
"""

import copy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.types import Modality

LORA = "lora"
NEEDED = (
    "must be 'lora:r=8', or 'modality=lora:r=8' for each, with r, alpha, dropout and targets "
    "joined by ','"
)
ATTENTION = ("q_proj", "v_proj", "query", "value", "q_lin", "v_lin")
"""What models call the layers of queries and values, which get adapters unless ``targets`` says
otherwise."""
MARK = ".lora_"
"""In the names of an adapter's parameters."""
BASE = ".base_layer."
"""In those of a layer that has an adapter."""


@dataclass(frozen=True)
class Lora:
    """What a trunk gets."""

    r: int = 8
    """Rank."""
    alpha: float = 16.0
    """Scale: the product of the factors counts alpha / r times; twice the rank unless told."""
    dropout: float = 0.0
    """Of what goes into the adapters."""
    targets: tuple[str, ...] = ()
    """Names of the layers; none: queries and values."""

    @staticmethod
    def parse(text: str) -> "Lora":
        """Read "lora:r=8,alpha=16,dropout=0.1,targets=query+value".

        Parameters
        ----------
        text
            "lora", and after a colon what differs from the defaults.

        Returns
        -------
        The adapter.

        Raises
        ------
        ValueError
            Another kind, an unknown name, or a value out of range.

        Examples
        --------
        >>> Lora.parse("lora:r=4")
        Lora(r=4, alpha=8.0, dropout=0.0, targets=())
        """
        kind, _, rest = text.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
        given = {name: value for name, _, value in pairs}
        unknown = sorted(given.keys() - asdict(Lora()).keys())
        if kind != LORA or unknown or len(given) < len(pairs):
            raise ValueError(f"{text!r}: {NEEDED}.")

        r, dropout = int(given.get("r", 8)), float(given.get("dropout", 0))
        alpha = float(given.get("alpha", 2 * r))
        targets = tuple(name for name in given.get("targets", "").split("+") if name)
        if r < 1 or not 0 < alpha < float("inf") or not 0 <= dropout < 1:
            raise ValueError(
                f"{text!r}: r must be 1 or more, alpha above 0, dropout from 0 to below 1."
            )

        return Lora(r, alpha, dropout, targets)


def read_adapters(text: str) -> dict[Modality, Lora]:
    """Read the ``adapter`` key.

    Parameters
    ----------
    text
        Its value.

    Returns
    -------
    Modality -> adapter, or "" -> that of all trunks of ``auto:``; none of an empty text.

    Raises
    ------
    ConfigError
        Another form.
    """
    found = {}
    try:
        words = shlex.split(text)
        for word in words:
            kind, colon, rest = word.partition(":")
            modality, _, kind = kind.rpartition("=")
            found[modality] = Lora.parse(f"{kind}{colon}{rest}")
    except ValueError as error:
        raise ConfigError(f"adapter = {text!r}: {error}") from error

    if len(found) < len(words) or ("" in found and len(words) > 1):
        raise ConfigError(f"adapter = {text!r}: {NEEDED}.")

    return found


def adapters_of(
    text: str, encoders: Mapping[Modality, str], auto: str, frozen: Sequence[Modality]
) -> dict[Modality, dict[str, Any]]:
    """Return what each trunk gets, as options of its encoder.

    Parameters
    ----------
    text
        The ``adapter`` key.
    encoders
        Modality -> name of its encoder.
    auto
        The name of the encoders that adapters go with.
    frozen
        Modalities of the ``freeze`` key.

    Returns
    -------
    Modality -> fields of :class:`Lora`.

    Raises
    ------
    ConfigError
        A modality without such an encoder, or whose trunk is frozen.
    """
    chosen = read_adapters(text)
    fitting = [name for name, encoder in encoders.items() if encoder == auto and name not in frozen]
    if "" in chosen:
        chosen = dict.fromkeys(fitting, chosen[""])
        if not fitting:
            raise ConfigError(
                f"adapter = {text!r}: no trunk of an encoder auto: that is not in freeze."
            )

    wrong = sorted(name for name in chosen if name in encoders and name not in fitting)
    if wrong:
        raise ConfigError(
            f"adapter: the trunk of {wrong[0]!r} gets none: its encoder must be auto:, and freeze "
            "must not name it."
        )

    return {
        name: {**asdict(each), "targets": list(each.targets)}
        for name, each in chosen.items()
        if name in encoders
    }


def attach(trunk: nn.Module, fields: Mapping[str, Any]) -> None:
    """Give a trunk adapters, which change nothing yet, and let them alone be trained.

    Parameters
    ----------
    trunk
        Changed in place.
    fields
        Of :class:`Lora`.

    Raises
    ------
    ValueError
        None of its linear layers has one of the names.
    MissingExtraError
        peft is not installed.
    """
    with needs("lora"):
        from peft import LoraConfig, inject_adapter_in_model

    own = {
        name.rpartition(".")[2]
        for name, layer in trunk.named_modules()
        if isinstance(layer, nn.Linear)
    }
    wanted = fields["targets"] or ATTENTION
    targets = [name for name in wanted if name in own]
    if not targets or (fields["targets"] and len(targets) < len(wanted)):
        raise ValueError(
            f"adapter: {type(trunk).__name__} has no linear layers {sorted(set(wanted) - own)}; "
            f"name some of {sorted(own)}: adapter = 'lora:r={fields['r']},targets=NAME+NAME'."
        )

    config = LoraConfig(
        r=fields["r"],
        lora_alpha=fields["alpha"],
        lora_dropout=fields["dropout"],
        target_modules=targets,
        bias="none",
    )
    inject_adapter_in_model(config, trunk)
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(MARK in name)


def published_names(trunk: nn.Module) -> dict[str, str]:
    """Return the names of a trunk's arrays without adapters -> their names with them."""
    return {name.replace(BASE, "."): name for name in trunk.state_dict() if MARK not in name}


def set_mode(trunk: nn.Module, mode: bool) -> None:
    """Put a trunk's adapters into training or eval mode; the rest is in eval mode."""
    trunk.eval()
    for name, module in trunk.named_modules():
        if MARK in f"{name}.":
            module.train(mode)


def merged(trunk: nn.Module) -> nn.Module:
    """Return a copy of a trunk whose adapters have become part of its layers."""
    trunk = copy.deepcopy(trunk)
    for parent, name, layer in list(_adapted(trunk)):
        layer.merge(safe_merge=True)
        setattr(parent, name, layer.get_base_layer())

    return trunk


def _adapted(trunk: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    from peft.tuners.lora import LoraLayer

    for parent in trunk.modules():
        for name, child in parent.named_children():
            if isinstance(child, LoraLayer):
                yield parent, name, child
