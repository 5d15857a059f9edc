"""FedProto (Tan et al., AAAI 2022) with averaged weights.

Embeddings move towards the federation's prototypes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcmi_flwr.methods.base import WeightedMethod, present_rows
from fedcmi_flwr.methods.local import Kept, LocalRound, LocalSteps
from fedcmi_flwr.methods.prototypes import class_means, embedding_sums, prototype_cross_entropy
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import AnyArray, Batch, LossTerms, Modality, ModelOutput

SUM, COUNT, PROTOTYPE = "prototype-sum.", "prototype-count.", "prototype."


@dataclass(frozen=True, kw_only=True)
class FedProto(WeightedMethod):
    """CE(F) + weight * sum_m CE(-||z_m - prototype_m||, y).

    Nodes send sums and counts of z_m per class after training; a global prototype is the sum of
    sums over the sum of counts, and one that nobody had samples for keeps its value.
    """

    @property
    def tuning(self) -> tuple[str, tuple[float, ...]]:
        """The own weight."""
        return ("weight", (0.1, 0.3, 1.0))

    def for_node(
        self, state: Mapping[str, AnyArray], modalities: Sequence[Modality], names: Sequence[str]
    ) -> dict[str, AnyArray]:
        """Return the prototypes of the modalities that the node owns."""
        keys = [f"{PROTOTYPE}{name}" for name in modalities]
        return {key: state[key] for key in keys if key in state}

    def prepare(
        self,
        model: MultimodalModel,
        local: LocalRound,
        received: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
    ) -> dict[Modality, Tensor]:
        """Return the global prototypes, NaN rows where there is none yet."""
        return {
            key.removeprefix(PROTOTYPE): value.to(local.log_prior)
            for key, value in received.items()
        }

    def loss_terms(
        self, model: MultimodalModel, batch: Batch, output: ModelOutput, local: LocalRound
    ) -> LossTerms:
        """Return CE(F) and the prototypes' term, once there are prototypes."""
        terms = {"fused": self.fused_cross_entropy(batch, output, local)}
        prototypes: dict[Modality, Tensor] = local.method_state
        rows = present_rows(model, batch)
        pulls = [
            prototype_cross_entropy(
                output.self_embeddings[name], prototypes[name], batch.labels, rows[name]
            )
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

    def check_reply(
        self,
        reply: Mapping[str, AnyArray],
        sent: Mapping[str, AnyArray],
        modalities: Sequence[Modality],
        num_classes: int,
        num_examples: int,
    ) -> None:
        """Raise ValueError unless there are sums [classes, dim] and counts [classes] of each owned
        modality.
        """
        if set(reply) != {prefix + name for name in modalities for prefix in (SUM, COUNT)}:
            raise ValueError(
                f"arrays {sorted(reply)}: need {SUM}<m> and {COUNT}<m> of each of "
                f"{list(modalities)}."
            )
        for name in modalities:
            total, count = reply[SUM + name], reply[COUNT + name]
            if total.ndim != 2 or len(total) != num_classes or count.shape != (num_classes,):
                raise ValueError(
                    f"prototypes of {name!r}: shapes {list(total.shape)} and {list(count.shape)}."
                )
            if total.dtype != np.float32 or count.dtype != np.float32:
                raise ValueError(
                    f"prototypes of {name!r}: {total.dtype} and {count.dtype}, need float32."
                )

            whole = np.asarray(count, dtype=np.float64)
            if (whole < 0).any() or (whole != np.floor(whole)).any():
                raise ValueError(f"prototypes of {name!r}: counts must be whole numbers from 0.")
            if whole.sum() > num_examples:
                raise ValueError(
                    f"prototypes of {name!r}: {whole.sum():g} samples, but num-examples = "
                    f"{num_examples}."
                )
            if np.asarray(total, dtype=np.float64)[whole == 0].any():
                raise ValueError(f"prototypes of {name!r}: a sum over no samples is not 0.")

    def scale_reply(self, reply: Mapping[str, AnyArray], share: float) -> dict[str, AnyArray]:
        """Return sums and counts of that share."""
        return {
            name: np.asarray(np.asarray(array, dtype=np.float64) * share, np.float32)
            for name, array in reply.items()
        }

    def incompatible_replies(
        self, state: Mapping[str, AnyArray], replies: Mapping[int, Mapping[str, AnyArray]]
    ) -> dict[int, str]:
        """Refuse embeddings of another size than the state's, or before there is one, than most
        replies'.
        """
        found: dict[int, str] = {}
        keys = {key for reply in replies.values() for key in reply if key.startswith(SUM)}
        for name in sorted(key.removeprefix(SUM) for key in keys):
            sizes = {
                p: replies[p][SUM + name].shape[1]
                for p in sorted(replies)
                if SUM + name in replies[p]
            }
            known = state.get(PROTOTYPE + name)
            size = Counter(sizes.values()).most_common(1)[0][0] if known is None else known.shape[1]
            wrong = {partition: other for partition, other in sizes.items() if other != size}
            found |= {
                p: f"prototypes of {name!r}: dim {other}, but {size} elsewhere."
                for p, other in wrong.items()
            }

        return found

    def combine(
        self,
        state: Mapping[str, AnyArray],
        replies: Sequence[Mapping[str, AnyArray]],
        owners: Mapping[str, int],
    ) -> dict[str, AnyArray]:
        """Return the class-count-weighted prototypes."""
        combined = dict(state)
        for key in sorted({key for reply in replies for key in reply if key.startswith(SUM)}):
            name = key.removeprefix(SUM)
            sums, counts = (
                torch.stack(
                    [
                        torch.from_numpy(reply[part + name]).double()
                        for reply in replies
                        if key in reply
                    ]
                ).sum(0)
                for part in (SUM, COUNT)
            )
            new = class_means(sums, counts).float().numpy()
            old = state.get(PROTOTYPE + name, np.full_like(new, np.nan))
            combined[PROTOTYPE + name] = np.where(np.isnan(new), old, new)

        return combined


METHODS = {"fedproto": FedProto()}
