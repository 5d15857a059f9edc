"""A model as a function of stored samples, for one subset of its modalities: what is exported.

The choice of frames, the scaling and the normalisation of an evaluation are part of it, in
operations that every runtime has.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import VISUAL, Views
from fedcmi_flwr.evaluation.decision import Subset, scores
from fedcmi_flwr.inference.predictor import Predictor
from fedcmi_flwr.types import Batch


class SubsetGraph(nn.Module):
    """A model as a function of the stored samples of one subset of its modalities.

    Parameters
    ----------
    predictor
        On the CPU.
    subset
        The modalities, in the model's order.
    """

    def __init__(self, predictor: Predictor, subset: Subset) -> None:
        super().__init__()
        self.model = predictor.model
        self.specs = [predictor.input(name) for name in subset]
        self.views = predictor.views
        self.decision = predictor.decisions.of(subset)
        self.present = torch.tensor([[name in subset for name in self.model.spec.modalities]])

    def forward(
        self, *stored: Tensor
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return probabilities and scores; ``stored`` is [batch, *shape] of each modality."""
        shown = {
            spec.name: show(self.views, x, spec) for spec, x in zip(self.specs, stored, strict=True)
        }
        count = stored[0].shape[0]  # not len, which torch.export would take for a constant
        unused = torch.zeros(count, dtype=torch.int64)
        batch = Batch(shown, unused, self.present.expand(count, -1), True, unused)
        found = scores(self.model, self.model(batch), batch.present, self.decision.votes)

        return self.decision.log_probabilities(found).exp(), found


def show(views: Views, stored: Tensor, spec: ModalitySpec) -> Tensor:
    """Return what :meth:`Views.show` does for an evaluation, in operations that every
    runtime has.
    """
    if spec.kind == "tokens":
        return stored.long()

    indices = views.frame_indices(spec, 1, None)
    if indices is not None:
        stored = stored.index_select(1, torch.from_numpy(indices[0]))

    values = stored.float()
    if spec.kind in VISUAL and views.size and spec.shape[-2:] != (views.size, views.size):
        values = _scaled(values, views.size)

    mean, std = (
        torch.tensor(value).reshape(-1, *[1] * spec.axes_behind) for value in (spec.mean, spec.std)
    )

    return (values - mean) / std


def _scaled(values: Tensor, size: int) -> Tensor:
    """Scale the last two axes bilinearly with antialiasing.

    A product with the weights that torch's scaling has.
    """
    height, width = values.shape[-2:]
    rows, columns = (_weights(pixels, size) for pixels in (height, width))
    return rows @ values @ columns.T


def _weights(pixels: int, size: int) -> Float[Tensor, "size pixels"]:
    return F.interpolate(
        torch.eye(pixels)[None, None], (size, pixels), mode="bilinear", antialias=True
    )[0, 0]
