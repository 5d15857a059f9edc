"""Class means of embeddings, which FedProto and FedPMR train towards."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedcmi_flwr.methods.base import present_rows
from fedcmi_flwr.methods.losses import masked_mean
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, Modality


@torch.no_grad()
def embedding_sums(
    model: MultimodalModel, batches: Iterator[Batch]
) -> tuple[dict[Modality, Float[Tensor, "classes dim"]], dict[Modality, Float[Tensor, " classes"]]]:
    """Add up z_m of the samples of each class.

    Parameters
    ----------
    model
        Put into eval mode for it and back.
    batches
        The node's samples.

    Returns
    -------
    Sums and sample counts of each owned modality.
    """
    was_training, classes = model.training, model.spec.num_classes
    model.eval()
    sums: dict[Modality, Tensor] = {}
    counts: dict[Modality, Tensor] = {}
    for batch in batches:
        embeddings = model(batch).self_embeddings
        member = F.one_hot(batch.labels, classes)
        for name, rows in present_rows(model, batch).items():
            kept = (member * rows.unsqueeze(1)).to(embeddings[name].dtype)
            sums[name] = sums.get(name, 0) + kept.T @ embeddings[name]
            counts[name] = counts.get(name, 0) + kept.sum(0)

    model.train(was_training)

    return sums, counts


def class_means(
    sums: Float[Tensor, "classes dim"], counts: Float[Tensor, " classes"]
) -> Float[Tensor, "classes dim"]:
    """Return the prototypes, NaN where a class has no sample."""
    return sums / counts.unsqueeze(1)


def prototype_logits(
    z: Float[Tensor, "batch dim"], prototypes: Float[Tensor, "classes dim"]
) -> Float[Tensor, "batch classes"]:
    """Return -||z - prototype||, -inf for classes without a prototype."""
    known = ~prototypes.isnan().any(dim=1)
    return (-torch.cdist(z, prototypes.nan_to_num())).masked_fill(~known, -torch.inf)


def prototype_cross_entropy(
    z: Float[Tensor, "batch dim"],
    prototypes: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    rows: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Return the mean of CE(-||z - prototype||, y) over the rows whose class has a prototype.

    0 when there is none.
    """
    known = ~prototypes.isnan().any(dim=1)
    used = rows & known[labels]
    log_probability = prototype_logits(z, prototypes).log_softmax(dim=1)
    chosen = log_probability.gather(1, labels.unsqueeze(1)).squeeze(1)

    return masked_mean(-torch.where(used, chosen, torch.zeros_like(chosen)), used)
