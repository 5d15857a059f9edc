"""FedProto (Tan et al., AAAI 2022) with averaged weights: embeddings move towards the federation's prototypes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcmi_flwr.aggregation import AnyArray
from fedcmi_flwr.methods.base import Kept, LocalRound, LocalSteps, Method, present_rows
from fedcmi_flwr.methods.prototypes import class_means, embedding_sums, prototype_cross_entropy
from fedcmi_flwr.model import MultimodalModel
from fedcmi_flwr.types import Batch, LossTerms, Modality, ModelOutput

SUM, COUNT, PROTOTYPE = "prototype-sum.", "prototype-count.", "prototype."


@dataclass(frozen=True, kw_only=True)
class FedProto(Method):
    """CE(F) + weight * sum_m CE(-||z_m - prototype_m||, y).

    Nodes send sums and counts of z_m per class after training; a global prototype is the sum of sums over the sum of
    counts, and one that nobody had samples for keeps its value.
    """

    weight: float = 1.0
    """Weight of the prototypes' cross-entropy, 0 or greater."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.check_weights("weight")

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.1, 0.3))

    def for_node(
        self, state: Mapping[str, AnyArray], modalities: Sequence[Modality], names: Sequence[str]
    ) -> dict[str, AnyArray]:
        """Return the prototypes of the modalities that the node owns."""
        keys = [f"{PROTOTYPE}{name}" for name in modalities]
        return {key: state[key] for key in keys if key in state}

    def prepare(
        self, model: MultimodalModel, local: LocalRound, received: Mapping[str, Tensor], memory: Mapping[str, Tensor]
    ) -> dict[Modality, Tensor]:
        """Return the global prototypes, NaN rows where there is none yet."""
        return {key.removeprefix(PROTOTYPE): value.to(local.log_prior) for key, value in received.items()}

    def loss_terms(self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound) -> LossTerms:
        """Return CE(F) and the prototypes' term, once there are prototypes."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        prototypes: dict[Modality, Tensor] = local.own
        rows = present_rows(model, batch)
        pulls = [
            prototype_cross_entropy(output.self_embeddings[name], prototypes[name], batch.labels, rows[name])
            for name in model.owned
            if name in prototypes
        ]
        if pulls and self.weight > 0:
            terms["prototype"] = torch.stack(pulls).sum()
        return LossTerms(terms, {"prototype": self.weight})

    def finish(self, model: MultimodalModel, local: LocalRound, steps: LocalSteps) -> Kept:
        """Send sums and counts of the trained model's embeddings."""
        sums, counts = embedding_sums(model, local.batches())
        named = {f"{SUM}{name}": value for name, value in sums.items()}
        return Kept({**named, **{f"{COUNT}{name}": value for name, value in counts.items()}})

    def check_reply(self, reply: Mapping[str, AnyArray], sent: Mapping[str, AnyArray], num_classes: int) -> None:
        """Raise ValueError unless there are sums [classes, dim] and counts [classes], 0 or greater, of modalities."""
        names = {key.removeprefix(SUM) for key in reply if key.startswith(SUM)}
        if set(reply) != {prefix + name for name in names for prefix in (SUM, COUNT)} or not names:
            raise ValueError(f"arrays {sorted(reply)}: need a {SUM}<m> and a {COUNT}<m> for each modality.")
        for name in names:
            total, count = reply[SUM + name], reply[COUNT + name]
            if total.ndim != 2 or len(total) != num_classes or count.shape != (num_classes,):
                raise ValueError(f"prototypes of {name!r}: shapes {list(total.shape)} and {list(count.shape)}.")
            if (np.asarray(count, dtype=np.float64) < 0).any():
                raise ValueError(f"prototypes of {name!r}: a count is below 0.")

    def combine(
        self, state: Mapping[str, AnyArray], replies: Sequence[Mapping[str, AnyArray]], owners: Mapping[str, int]
    ) -> dict[str, AnyArray]:
        """Return the class-count-weighted prototypes."""
        combined = dict(state)
        for key in sorted({key for reply in replies for key in reply if key.startswith(SUM)}):
            name = key.removeprefix(SUM)
            found = [(torch.from_numpy(r[key]), torch.from_numpy(r[COUNT + name])) for r in replies if key in r]
            sums, counts = (torch.stack(column).sum(0) for column in zip(*found, strict=True))
            new = class_means(sums, counts).numpy()
            old = state.get(PROTOTYPE + name, np.full_like(new, np.nan))
            combined[PROTOTYPE + name] = np.where(np.isnan(new), old, new)
        return combined


METHODS = {"fedproto": FedProto()}
