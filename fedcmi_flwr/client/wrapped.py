"""The two-projector model round encoders of the user's own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedcmi_flwr.lookup import find
from fedcmi_flwr.methods import METHOD, Method
from fedcmi_flwr.models.encoders.base import Encoder, output_layer
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel, parameter_groups
from fedcmi_flwr.types import SHARED, Batch, Modality, ModelOutput


class OwnEncoder(Encoder):
    """E_m with a trunk of the user's.

    Parameters
    ----------
    modality
        What it reads, for errors.
    trunk
        Inputs of the modality -> [batch, width].
    width
        What the trunk ends in.
    embedding_dim
        D.
    """

    def __init__(
        self, modality: Modality, trunk: nn.Module, width: int, embedding_dim: int
    ) -> None:
        super().__init__(trunk, output_layer(width, embedding_dim, frozen=False))
        self._modality = modality
        self._width = width

    def read(self, x: Tensor) -> Tensor:
        """Return the trunk's output; ValueError where it is not [batch, width]."""
        found = self.trunk(x)
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != self._width:
            raise ValueError(
                f"the encoder of {self._modality!r} gave {shape}, need a tensor [batch, "
                f"{self._width}]; say widths={{{self._modality!r}: ...}} to wrap() if it ends in "
                "another width."
            )

        return found


class WrappedModel(MultimodalModel):
    """The two-projector model, called with a mapping from modality to tensor.

    Parameters
    ----------
    spec
        The federation's model.
    encoders
        One for each modality.
    """

    def __init__(self, spec: ModelSpec, encoders: Mapping[Modality, Encoder]) -> None:
        super().__init__(spec, [], encoders)
        self._used = spec.modalities

    @property
    def owned(self) -> tuple[Modality, ...]:
        """Modalities that this node trains; all of them until :meth:`use` says otherwise."""
        return self._used

    @property
    def groups(self) -> dict[Modality, tuple[str, ...]]:
        """What the strategy wants to know: ``FedCMI(model.groups, num_classes)``."""
        found = parameter_groups(self.spec)
        return {name: prefixes for name, prefixes in found.items() if name != SHARED}

    def use(self, modalities: Sequence[Modality]) -> None:
        """Train, and send back, the branches of these modalities alone."""
        self._used = tuple(name for name in self.spec.modalities if name in modalities)

    def initialize(self, method: str | Method) -> None:
        """Let a new model start as a method wants it, on the server and before ``start``.

        :func:`wrap` does it itself.

        Parameters
        ----------
        method
            The run's, by name or with hyperparameters: FedCMI+ lets linear projectors start as
            the identity. It is needed where the model was wrapped for another one.

        Raises
        ------
        ValueError
            An unknown method.
        """
        of_method = find(METHOD, method) if isinstance(method, str) else method
        of_method.initialize(self)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters of the owned branches and the fusion head, by name."""
        found = super().trained_parameters()
        return {name: value for name, value in found.items() if not name.startswith(self._unused)}

    def trained_state(self) -> dict[str, Tensor]:
        """Return their state_dict."""
        found = super().trained_state()
        return {name: value for name, value in found.items() if not name.startswith(self._unused)}

    @property
    def _unused(self) -> tuple[str, ...]:
        return tuple(f"branches.{name}." for name in self.spec.modalities if name not in self._used)

    def forward(
        self, batch: Batch | Mapping[Modality, Tensor], present: Tensor | None = None
    ) -> ModelOutput:
        """Return everything that a method may want to know.

        Parameters
        ----------
        batch
            Modality -> inputs of the same samples; modalities that this node does not own may be
            left out.
        present
            [batch, modalities], truth values: what each sample has, over all modalities of the
            federation in their order; rows of ``batch`` that are not present are never read.
            None: every sample has all that is there.

        Returns
        -------
        Embeddings and logits; ``fused_logits`` is what predicts.
        """
        return super().forward(batch if isinstance(batch, Batch) else self.as_batch(batch, present))

    def as_batch(
        self,
        inputs: Mapping[Modality, Tensor],
        present: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Batch:
        """Return inputs as a method sees them.

        The parameters are those of :meth:`forward`, and the labels.
        """
        if not isinstance(inputs, Mapping):
            raise TypeError(
                "a wrapped model is called with its inputs by modality, "
                f"model({{{self.owned[0]!r}: ...}}); found {type(inputs).__name__}. The batches "
                "of samples= hold the same."
            )

        used = {name: inputs[name] for name in self.owned if name in inputs}
        if not used:
            raise ValueError(
                f"inputs of {sorted(inputs)}: need at least one of {list(self.owned)}, named as "
                "in wrap()."
            )

        first = next(iter(used.values()))
        if present is None:
            here = torch.tensor(
                [name in used for name in self.spec.modalities], device=first.device
            )
            present = here.expand(len(first), -1)

        complete = all(bool(present[:, self.spec.modalities.index(name)].all()) for name in used)
        if labels is None:
            labels = torch.zeros(len(first), dtype=torch.long, device=first.device)

        return Batch(used, labels, present, complete, torch.arange(len(first)))


def wrap(
    encoders: Mapping[Modality, nn.Module],
    num_classes: int,
    *,
    method: str | Method = "fedcmi",
    embedding_dim: int = 64,
    widths: Mapping[Modality, int] | None = None,
    projector: str = "linear",
    fusion: str = "concat",
) -> WrappedModel:
    """Build the model of a method round encoders of your own, the same on the server and on every
    node.

    Parameters
    ----------
    encoders
        Modality -> any module that gives [batch, width] from the modality's inputs, in the order
        of the fusion slots.
    num_classes
        C.
    method
        Decides what the model consists of, two projectors and a classifier for each modality
        with FedCMI, and how it starts: the projectors of FedCMI+ as the identity. Say the one
        that the strategy gets.
    embedding_dim
        D, the size of each modality's embedding; a linear layer follows an encoder that ends in
        another width.
    widths
        What encoders end in; left out: taken from each one's last linear layer.
    projector
        "linear" or "mlp".
    fusion
        A fusion head: "concat", "sum", "film", "gated", or one from outside.

    Returns
    -------
    The model; call it with ``{"image": images, "text": ids}``.

    Raises
    ------
    ValueError
        No encoder, an encoder whose width cannot be told, an unknown method, projector or fusion.
    """
    of_method = find(METHOD, method) if isinstance(method, str) else method
    names = tuple(encoders)
    own = {}
    for name, trunk in encoders.items():
        width = (widths or {}).get(name) or _last_width(name, trunk)
        own[name] = OwnEncoder(name, trunk, width, embedding_dim)

    described = dict.fromkeys(names, "own")
    spec = ModelSpec(
        names, num_classes, embedding_dim, described, projector, fusion, of_method.structure
    )
    model = WrappedModel(spec, own)
    model.initialize(of_method)

    return model


def _last_width(modality: Modality, trunk: nn.Module) -> int:
    """Return the width of a module's last linear layer."""
    linear = [layer for layer in trunk.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(
            f"the encoder of {modality!r} has no linear layer that says what it ends in; say "
            f"widths={{{modality!r}: ...}} to wrap()."
        )

    return linear[-1].out_features
