"""The methods side by side: each is one small object that says what it adds to the loss and to the gradient.

All of them run in the same model code, loop and aggregation. A method is a frozen dataclass: its fields are its
hyperparameters, travel to the nodes under the same names, and are all that a run configuration may override.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedcmi_flwr.dominance import NOBODY, Dominance, decide_dominance
from fedcmi_flwr.losses import cross_entropy, knowledge_distillation, true_class_probability
from fedcmi_flwr.model import Branch, MultimodalModel
from fedcmi_flwr.types import Batch, ClassStats, LossTerms, Modality, ModelOutput

Scalar = bool | int | float | str
DOMINANCES = ("global", "client", "batch")


@dataclass(frozen=True)
class LocalRound:
    """What a node knows in one round besides its batches."""

    owned: tuple[Modality, ...]
    unimodal: bool
    """True when the node owns one modality of several."""
    global_parameters: Sequence[Tensor]
    """Parameters of the received model, in the order of ``model.parameters()``, detached copies."""
    teachers: Mapping[Modality, Branch]
    """Frozen branches of the received model, in eval mode, for the modalities that may teach."""
    dominance: Dominance
    stats: ClassStats | None
    """Own statistics of this round on the received model."""


@runtime_checkable
class Method(Protocol):
    """What the training loop asks of a method."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def two_projectors(self) -> bool:
        """True: the two-projector model; False: encoders and fusion head only."""

    @property
    def measures(self) -> bool:
        """True when nodes measure class statistics on the model they receive."""

    @property
    def averaging(self) -> float:
        """Share of the old average in the moving average of the global weights; 0: the weights themselves."""

    @property
    def self_head_votes(self) -> float:
        """Weight of the self heads' log-probabilities beside the fusion head's when a class is predicted."""

    def decide(self, stats: ClassStats) -> Dominance:
        """Return what class statistics say, of one node or of all nodes together."""

    def broadcast(self, decided: Dominance) -> Dominance:
        """Return what the server sends of its decision with the next round's model."""

    def teaching(
        self, owned: tuple[Modality, ...], server_round: int, received: Dominance, stats: ClassStats | None
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Return the decision in force on a node in this round, and the owned modalities that may teach under it."""

    def loss_terms(self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound) -> LossTerms:
        """Return the local objective's terms for one batch."""

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Change the gradients in place after backward, before the optimiser's step."""


def add_proximal_gradient(model: MultimodalModel, global_parameters: Sequence[Tensor], mu: float) -> None:
    """Add mu (w - w_global), the gradient of FedProx's mu/2 ||w - w_global||^2 (Li et al., MLSys 2020)."""
    if mu == 0:
        return
    pairs = zip(model.parameters(), global_parameters, strict=True)
    trained = [(w.grad, w.detach(), start) for w, start in pairs if w.grad is not None]
    gradients, weights, starts = (list(column) for column in zip(*trained, strict=True))
    torch._foreach_add_(gradients, torch._foreach_sub(weights, starts), alpha=mu)


def _check_weights(method: object, *names: str) -> None:
    for name in names:
        value = getattr(method, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{_key(name)} = {value!r}: must be 0 or greater, and finite.")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} = {value!r}: must be from 0 to below 1.")


def _fused_cross_entropy(batch: Batch, output: ModelOutput) -> Tensor:
    every = torch.ones_like(batch.labels, dtype=torch.bool)
    return cross_entropy(output.fused_logits, batch.labels, every)


@dataclass(frozen=True)
class FedAvg:
    """FedAvg (mu = 0) and FedProx (mu > 0): CE(F) on encoders and fusion head, missing modalities as zeros."""

    mu: float = 0.0
    """Proximal weight, 0 or greater."""
    averaging: float = 0.0
    """As in CrossModalInfiltration."""
    self_head_votes: ClassVar[float] = 0.0
    two_projectors: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_weights(self, "mu")
        _check_share("averaging", self.averaging)

    def decide(self, stats: ClassStats) -> Dominance:
        """Nobody teaches."""
        return NOBODY

    def broadcast(self, decided: Dominance) -> Dominance:
        """Nobody teaches."""
        return NOBODY

    def teaching(
        self, owned: tuple[Modality, ...], server_round: int, received: Dominance, stats: ClassStats | None
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Nobody teaches."""
        return NOBODY, ()

    def loss_terms(self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound) -> LossTerms:
        """Return CE(F)."""
        return LossTerms({"fused": _fused_cross_entropy(batch, output)})

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Add the proximal gradient."""
        add_proximal_gradient(model, local.global_parameters, self.mu)


@dataclass(frozen=True)
class CrossModalInfiltration:
    """FedCMI's local objective; with all three additions it is FedCMI+, with lambda = mu = 0 the control for KD.

    L = CE(F(u)) + gamma sum_m CE(H_m(u_m)) + lambda sum_{m != d} KD_m; proximal gradient mu (w - w_global).
    """

    gamma: float = 2.0
    """Weight of the self heads' cross-entropy, 0 or greater."""
    lambda_: float = 1.0
    """Weight of the distillation from the dominant modality, 0 or greater."""
    mu: float = 1.0
    """Proximal weight, 0 or greater."""
    kappa: float = 2.0
    """Strength of the class-wise temperature, 0 or greater."""
    warmup: int = 1
    """Rounds without distillation, 0 or greater."""
    dominance: str = "global"
    """Who decides d and T: "global" (server), "client" (each node, each round) or "batch" (d per batch)."""
    surrogate: float = 0.0
    """FedCMI+ 1: weight of CE(F with every other slot filled by q_m) on multimodal nodes, 0 or greater."""
    kd_temperature_scaling: bool = False
    """FedCMI+ 2: multiply KD by T^2."""
    unimodal_auxiliary: bool = False
    """FedCMI+ 3: unimodal nodes train their self head with weight gamma too."""
    averaging: float = 0.0
    """FedCMI+ 4, for any method: what is evaluated and saved is a moving average of the global weights,
    a <- averaging a + (1 - averaging) w after each round; training goes on from w. In [0, 1); 0: off."""
    self_head_votes: float = 0.0
    """FedCMI+ 5: a class is predicted by ln F + self_head_votes * sum over the present m of ln H_m(u_m), the logarithm
    of a product of experts, 0 or greater; 0: by the fusion head alone."""
    two_projectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_weights(self, "gamma", "lambda_", "mu", "kappa", "warmup", "surrogate", "self_head_votes")
        _check_share("averaging", self.averaging)
        if self.dominance not in DOMINANCES:
            raise ValueError(f"dominance = {self.dominance!r}: not one of {DOMINANCES}.")

    @property
    def measures(self) -> bool:
        """Class statistics serve the teacher alone."""
        return self.lambda_ > 0

    def decide(self, stats: ClassStats) -> Dominance:
        """Return the dominant modality and the class-wise temperatures of the weak ones."""
        return decide_dominance(stats, self.kappa)

    def broadcast(self, decided: Dominance) -> Dominance:
        """Return the decision where the server is the one who decides."""
        return decided if self.dominance == "global" else NOBODY

    def teaching(
        self, owned: tuple[Modality, ...], server_round: int, received: Dominance, stats: ClassStats | None
    ) -> tuple[Dominance, tuple[Modality, ...]]:
        """Nobody teaches in warm-up rounds, nor on a node with one modality, nor where d is not owned."""
        if stats is None or server_round <= self.warmup or len(owned) < 2:
            return NOBODY, ()
        if self.dominance == "batch":
            return NOBODY, owned  # decided in each batch
        decision = received if self.dominance == "global" else self.decide(stats)
        return (decision, (decision.dominant,)) if decision.dominant in owned else (NOBODY, ())

    def loss_terms(self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound) -> LossTerms:
        """Return the terms ``fused``, ``self``, ``kd`` and ``surrogate`` that apply to this node and batch."""
        terms = {"fused": _fused_cross_entropy(batch, output)}
        present = {name: batch.present[:, model.spec.modalities.index(name)] for name in local.owned}
        if self.gamma > 0 and (self.unimodal_auxiliary or not local.unimodal):
            heads = [cross_entropy(output.self_logits[name], batch.labels, present[name]) for name in local.owned]
            terms["self"] = torch.stack(heads).sum()
        if local.teachers:
            distilled = self._distillation(batch, output, local, present)
            if distilled:
                terms["kd"] = torch.stack(distilled).sum()
        if self.surrogate > 0 and not local.unimodal:
            terms["surrogate"] = self._surrogate(model, batch, output, present)
        return LossTerms(terms, {"self": self.gamma, "kd": self.lambda_, "surrogate": self.surrogate})

    def adjust_gradients(self, model: MultimodalModel, local: LocalRound) -> None:
        """Add the proximal gradient."""
        add_proximal_gradient(model, local.global_parameters, self.mu)

    def _distillation(
        self, batch: Batch, output: ModelOutput, local: LocalRound, present: Mapping[Modality, Tensor]
    ) -> list[Tensor]:
        decided = self._dominance_of_batch(batch, output, local, present)
        d = decided.dominant
        if d is None or d not in local.teachers:
            return []
        with torch.no_grad():
            teacher = local.teachers[d].self_logits(batch.inputs[d])
        losses = []
        certain = torch.ones(teacher.shape[1])
        for name in (name for name in local.owned if name != d):
            temperature = decided.temperature.get(name, certain).to(teacher)[batch.labels]
            rows = present[name] & present[d]
            student = output.infiltration_logits[name]
            losses.append(knowledge_distillation(teacher, student, temperature, rows, self.kd_temperature_scaling))
        return losses

    def _dominance_of_batch(
        self, batch: Batch, output: ModelOutput, local: LocalRound, present: Mapping[Modality, Tensor]
    ) -> Dominance:
        if self.dominance != "batch" or local.stats is None:
            return local.dominance
        both = torch.stack(list(present.values())).all(dim=0)
        sums = [(true_class_probability(output.self_logits[m], batch.labels) * both).sum() for m in local.owned]
        winner = local.owned[int(torch.stack(sums).argmax())]
        return decide_dominance(local.stats, self.kappa, winner)

    def _surrogate(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, present: Mapping[Modality, Tensor]
    ) -> Tensor:
        losses = []
        for name, rows in present.items():
            mask = model.only(name, batch.present)
            logits = model.fuse(output.self_embeddings, output.infiltration_embeddings, mask)
            losses.append(cross_entropy(logits, batch.labels, rows))
        return torch.stack(losses).sum()


METHODS: dict[str, Method] = {
    "fedavg": FedAvg(),
    "fedavg-averaged": FedAvg(averaging=0.7),
    "fedprox": FedAvg(mu=1.0),
    "fedavg-heads": CrossModalInfiltration(lambda_=0.0, mu=0.0),
    "fedcmi": CrossModalInfiltration(),
    "fedcmi-plus": CrossModalInfiltration(
        lambda_=3.0,
        mu=0.3,
        surrogate=1.0,
        kd_temperature_scaling=True,
        unimodal_auxiliary=True,
        averaging=0.7,
        self_head_votes=1.0,
    ),
}
"""Name -> method with its defaults."""


def hyperparameters(method: Method) -> dict[str, Scalar]:
    """Return a method's hyperparameters under their configuration keys.

    Parameters
    ----------
    method
        Any method.

    Returns
    -------
    Key ("lambda", "kd-temperature-scaling", ...) -> value.

    Examples
    --------
    >>> hyperparameters(METHODS["fedprox"])
    {'mu': 1.0, 'averaging': 0.0}
    """
    return {_key(item.name): getattr(method, item.name) for item in fields(method)}


def make_method(name: str, overrides: Mapping[str, Scalar]) -> Method:
    """Return the method called ``name`` with some of its hyperparameters replaced.

    Parameters
    ----------
    name
        One of METHODS.
    overrides
        Configuration key ("lambda", "kd-temperature-scaling", ...) -> value.

    Returns
    -------
    The method.

    Raises
    ------
    ValueError
        Unknown name; a hyperparameter that the method does not have; a value of the wrong type or out of range.
    """
    if name not in METHODS:
        raise ValueError(f"method = {name!r}: not one of {sorted(METHODS)}.")
    method = METHODS[name]
    names = {_key(item.name): item.name for item in fields(method)}
    values: dict[str, Scalar] = {}
    for key, value in overrides.items():
        if key not in names:
            raise ValueError(f"{key} = {value!r}: method {name!r} has no such hyperparameter, only {sorted(names)}.")
        values[names[key]] = _coerced(key, value, getattr(method, names[key]))
    return replace(method, **values)


def _key(field_name: str) -> str:
    return field_name.rstrip("_").replace("_", "-")


def _coerced(key: str, value: Scalar, example: Scalar) -> Scalar:
    """Return ``value`` as the type of ``example``; an integer may stand for a float, nothing else for anything."""
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(example):
        raise ValueError(f"{key} = {value!r}: must be of type {type(example).__name__}.")
    return value
