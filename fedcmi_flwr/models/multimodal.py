"""The two-projector model: branches, missing-modality slots, fusion heads.

Shapes: z, u, q [batch, dim]; logits [batch, classes]; slots [batch, modalities, dim]. A node
builds branches for the modalities it owns and nothing else; the fusion head is the same on all
nodes. Source: arXiv 2401.00894, section 3 (self- and infiltration projector, shared classifier).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.lookup import find
from fedcmi_flwr.models.adapters import MARK
from fedcmi_flwr.models.encoders import Encoder, build_encoder
from fedcmi_flwr.models.fusion import FUSION, fill_slots
from fedcmi_flwr.types import SHARED, Batch, Modality, ModelOutput


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build the model again; stored in a checkpoint's metadata."""

    modalities: tuple[Modality, ...]
    """All modalities of the federation, in the order of the fusion slots."""
    num_classes: int
    embedding_dim: int
    """D."""
    encoders: Mapping[Modality, str]
    """Encoder name per modality: built in, an entry point, or an import path."""
    projector: str
    """"linear" or "mlp"."""
    fusion: str
    """One of FUSIONS, an entry point, or an import path."""
    structure: str
    """One of STRUCTURES."""
    normalization: str = "batch"
    """One of ``encoders.NORMALIZATIONS``."""
    options: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    """What differs from the named encoders' architectures, where something does."""
    frozen: tuple[Modality, ...] = ()
    """Modalities whose encoder's trunk is neither trained nor sent."""

    @property
    def adapted(self) -> tuple[Modality, ...]:
        """Modalities of whose trunk nothing but an adapter is trained and sent."""
        return tuple(name for name in self.modalities if self.options.get(name, {}).get("adapter"))

    @property
    def held(self) -> tuple[Modality, ...]:
        """Modalities whose trunk every node has in its own directory.

        The frozen and the adapted ones.
        """
        return tuple(name for name in self.modalities if name in (*self.frozen, *self.adapted))


STRUCTURES = {
    "two-projectors": "FedCMI's model: encoder, P_m, Q_m and shared classifier H_m per modality, and the "
    "fusion head",
    "one-projector": "the same without Q_m: q_m is u_m",
    "fusion": "encoders and fusion head, u_m = z_m, missing slots are zeros: FedAvg's model",
    "unimodal": "encoder and classifier per modality, u_m = z_m; F is the sum of the present "
    "log-probabilities",
}
"""What a model consists of."""


def build_projector(kind: str, dim: int) -> nn.Module:
    """Return P_m or Q_m.

    ``linear``, or ``mlp`` = Linear-ReLU-Linear-ReLU-Linear, each R^D -> R^D.
    """
    if kind == "linear":
        return nn.Linear(dim, dim)

    if kind == "mlp":
        hidden = [nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(dim, dim))

    raise ValueError(f"projector {kind!r}: not one of ['linear', 'mlp'].")


class Branch(nn.Module):
    """One modality's parameter group.

    Encoder E_m and, as the structure says, P_m, Q_m and the classifier H_m.

    Parameters
    ----------
    encoder
        E_m: input -> [batch, dim].
    dim
        D.
    num_classes
        C.
    projector
        "linear" or "mlp".
    structure
        One of STRUCTURES.
    """

    def __init__(
        self, encoder: Encoder, dim: int, num_classes: int, projector: str, structure: str
    ) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        if structure in ("two-projectors", "one-projector"):
            self.self_projector = build_projector(projector, dim)

        if structure == "two-projectors":
            self.infiltration_projector = build_projector(projector, dim)

        if structure != "fusion":
            self.classifier = nn.Linear(dim, num_classes)

    def encode(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        """Return z; a single sample has no batch statistics, so the running ones are used."""
        if self.training and len(x) < 2:
            self.encoder.eval()
            z: Tensor = self.encoder(x)
            self.encoder.train()

            return z

        z = self.encoder(x)
        return z

    def self_logits(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return H_m(P_m(E_m(x))): all that a teacher or the class statistics need."""
        return self.self_logits_of(self.encoder.features(x))

    def self_logits_of(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the same from what ``encoder.features`` gave."""
        logits: Tensor = self.classifier(self.self_embedding(self.encoder.output(features)))
        return logits

    def self_embedding(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return u = P_m(z), or z itself without a projector."""
        u: Tensor = self.self_projector(z) if hasattr(self, "self_projector") else z
        return u

    def infiltration_embedding(
        self, z: Float[Tensor, "batch dim"], u: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Return q = Q_m(z), or u itself without an infiltration projector."""
        q: Tensor = self.infiltration_projector(z) if hasattr(self, "infiltration_projector") else u
        return q


class MultimodalModel(nn.Module):
    """Branches of the owned modalities and the fusion head over all of them.

    Parameters
    ----------
    spec
        The federation's model.
    inputs
        What each owned modality's samples look like; one branch is built for each.
    encoders
        Encoders that are there already, by modality; each gets a branch too, whatever ``spec``
        calls it.

    Raises
    ------
    ValueError
        A modality that ``spec`` does not know, an unknown encoder, projector, fusion, structure
        or normalization.
    """

    def __init__(
        self,
        spec: ModelSpec,
        inputs: Sequence[ModalitySpec],
        encoders: Mapping[Modality, Encoder] | None = None,
    ) -> None:
        super().__init__()
        ready = dict(encoders or {})
        owned = [*ready, *(modality.name for modality in inputs)]
        unknown = [name for name in owned if name not in spec.modalities]
        if unknown or not owned:
            raise ValueError(
                f"modalities {unknown}: need one or more, all of {list(spec.modalities)}."
            )

        fusion = find(FUSION, spec.fusion)
        if spec.structure not in STRUCTURES:
            raise ValueError(f"structure {spec.structure!r}: not one of {sorted(STRUCTURES)}.")

        self.spec = spec
        dim = spec.embedding_dim
        self.branches = nn.ModuleDict()

        for modality in inputs:
            name = modality.name
            options, frozen = spec.options.get(name), name in spec.frozen
            encoder = build_encoder(
                spec.encoders[name], modality, dim, spec.normalization, options, frozen
            )
            self.branches[name] = Branch(
                encoder, dim, spec.num_classes, spec.projector, spec.structure
            )

        for name, encoder in ready.items():
            self.branches[name] = Branch(
                encoder, dim, spec.num_classes, spec.projector, spec.structure
            )

        if spec.structure != "unimodal":
            self.fusion = fusion(len(spec.modalities), dim, spec.num_classes)

    @property
    def owned(self) -> tuple[Modality, ...]:
        """Modalities that this model has a branch for."""
        return tuple(self.branches)

    def branch(self, modality: Modality) -> Branch:
        """Return the branch of an owned modality."""
        branch = self.branches[modality]
        if not isinstance(branch, Branch):
            raise TypeError(f"branch of {modality!r} is a {type(branch).__name__}.")

        return branch

    def teacher(self, modality: Modality) -> Branch:
        """Return a copy of an owned modality's branch as it is now, which teaches.

        In eval mode, without gradients.
        """
        return copy.deepcopy(self.branch(modality)).eval().requires_grad_(False)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def trained_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the same by parameter group, without names."""
        trained = self.trained_parameters().items()
        groups = parameter_groups(self.spec).items()
        return {
            group: [value for name, value in trained if name.startswith(prefixes)]
            for group, prefixes in groups
        }

    def trained_state(self) -> dict[str, Tensor]:
        """Return what is sent, averaged and kept: the state_dict without frozen trunks' weights and
        those below adapters, which every node has.
        """
        return {name: value for name, value in self.state_dict().items() if not self._is_held(name)}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trained_state` returned.

        Parameters
        ----------
        state
            Name -> tensor.

        Raises
        ------
        RuntimeError
            Names or shapes that differ from the model's.
        """
        expected = self.trained_state().keys()
        if state.keys() != expected:
            missing, extra = sorted(expected - state.keys()), sorted(state.keys() - expected)
            raise RuntimeError(f"model: missing {missing[:5]}, unexpected {extra[:5]}.")

        self.load_state_dict(state, strict=False)

    def merge_adapters(self) -> None:
        """Let adapters become part of their trunks, for good.

        Nothing is left to be trained of these.
        """
        for name in self.owned:
            self.branch(name).encoder.merge_adapter()

    def _is_held(self, name: str) -> bool:
        """Return whether an array is part of a trunk that nodes have already, and no adapter."""
        prefixes = tuple(f"branches.{modality}.encoder.trunk." for modality in self.spec.held)
        return name.startswith(prefixes) and MARK not in name

    def forward(self, batch: Batch) -> ModelOutput:
        """Run each modality's branch on the samples that have it, and the fusion head on all."""
        u, q, self_logits, infiltration_logits = {}, {}, {}, {}
        for name in self.owned:
            if name not in batch.inputs:
                continue

            branch, rows = self.branch(name), None
            if not batch.complete:
                rows = batch.present[:, self.spec.modalities.index(name)]

            z = branch.encode(batch.inputs[name] if rows is None else batch.inputs[name][rows])
            self_embedding = branch.self_embedding(z)
            u[name] = scatter(self_embedding, rows)
            if self.spec.structure != "fusion":
                self_logits[name] = scatter(branch.classifier(self_embedding), rows)

            if self.spec.structure in ("two-projectors", "one-projector"):
                infiltration = branch.infiltration_embedding(z, self_embedding)
                q[name] = scatter(infiltration, rows)
                infiltration_logits[name] = scatter(branch.classifier(infiltration), rows)

        return ModelOutput(u, q, self_logits, infiltration_logits, self.fuse(u, q, batch.present))

    def fuse(
        self,
        u: Mapping[Modality, Float[Tensor, "batch dim"]],
        q: Mapping[Modality, Float[Tensor, "batch dim"]],
        present: Bool[Tensor, "batch modalities"],
    ) -> Float[Tensor, "batch classes"]:
        """Return the fused logits when only the ``present`` modalities are looked at.

        The others' slots are filled.
        """
        if self.spec.structure == "unimodal":
            return self._summed_log_probabilities(u, present)

        logits: Tensor = self.fusion(self.slots(u, q, present))
        return logits

    def slots(
        self,
        u: Mapping[Modality, Float[Tensor, "batch dim"]],
        q: Mapping[Modality, Float[Tensor, "batch dim"]],
        present: Bool[Tensor, "batch modalities"],
    ) -> Float[Tensor, "batch modalities dim"]:
        """Return the fusion head's input when only the ``present`` modalities are looked at."""
        absent = torch.zeros_like(next(iter(u.values())))
        u_stack = torch.stack([u.get(name, absent) for name in self.spec.modalities], dim=1)
        q_stack = torch.stack([q.get(name, absent) for name in self.spec.modalities], dim=1)

        return fill_slots(u_stack, q_stack, present)

    def _summed_log_probabilities(
        self,
        u: Mapping[Modality, Float[Tensor, "batch dim"]],
        present: Bool[Tensor, "batch modalities"],
    ) -> Float[Tensor, "batch classes"]:
        votes = []
        for name, embedding in u.items():
            log_probability = self.branch(name).classifier(embedding).log_softmax(dim=1)
            votes.append(
                log_probability * present[:, self.spec.modalities.index(name)].unsqueeze(1)
            )

        return torch.stack(votes).sum(0)


def mask_for(
    subset: Sequence[Modality],
    modalities: Sequence[Modality],
    present: Bool[Tensor, "batch modalities"],
) -> tuple[Bool[Tensor, "batch modalities"], Bool[Tensor, " batch"]]:
    """Return ``present`` with all modalities outside the subset hidden, and which samples have the
    whole subset.
    """
    among = torch.tensor([name in subset for name in modalities], device=present.device)
    return present & among, (present | ~among).all(dim=1)


def scatter(values: Tensor, rows: Tensor | None) -> Tensor:
    """Put the computed rows back among the absent ones, which hold zeros."""
    if rows is None:
        return values

    full = values.new_zeros(len(rows), *values.shape[1:])
    return full.masked_scatter(rows.unsqueeze(1), values)


def parameter_groups(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Return the parameter-name prefixes of each aggregation group.

    One per modality, and the shared fusion head.

    Parameters
    ----------
    spec
        The federation's model.

    Returns
    -------
    Group -> prefixes; the modalities in their order, then "shared", to which a unimodal model
    has no parameters.

    Examples
    --------
    >>> spec = ModelSpec(("audio", "visual"), 10, 64, {}, "linear", "concat", "two-projectors")
    >>> parameter_groups(spec)
    {'audio': ('branches.audio.',), 'visual': ('branches.visual.',), 'shared': ('fusion.',)}
    """
    groups: dict[str, tuple[str, ...]] = {name: (f"branches.{name}.",) for name in spec.modalities}
    return {**groups, SHARED: ("fusion.",)}
