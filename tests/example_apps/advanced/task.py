"""Model, data, training and evaluation of a table of numbers and a picture.

`fedcmi_net` alone knows of a method.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedcmi_flwr.client import WrappedModel, wrap

CLASSES = 3


def table_net() -> nn.Module:
    """Return an MLP over rows [batch, 6]."""
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))


def picture_net() -> nn.Module:
    """Return a small CNN over pictures [batch, 1, 8, 8]."""
    layers = [nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * 16, 8))


class Net(nn.Module):
    """Both encoders and one head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.picture = table_net(), picture_net()
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return logits."""
        z = torch.cat([self.table(inputs["table"]), self.picture(inputs["picture"])], dim=1)
        return self.head(z)


def fedcmi_net() -> WrappedModel:
    """Return FedCMI's model round the same encoders."""
    return wrap({"table": table_net(), "picture": picture_net()}, CLASSES, embedding_dim=8)


def load_data(partition: int, batch_size: int = 16, num_samples: int = 96) -> DataLoader:
    """Make labelled pairs of a row and a picture; the row is easier to tell."""
    generator = torch.Generator().manual_seed(partition)
    labels = torch.randint(0, CLASSES, (num_samples,), generator=generator)
    rows = torch.randn(num_samples, 6, generator=generator)
    rows[torch.arange(num_samples), labels] += 3.0
    pictures = torch.randn(num_samples, 1, 8, 8, generator=generator)
    pictures[torch.arange(num_samples), 0, labels] += 1.5
    data = TensorDataset(rows, pictures, labels)
    return DataLoader(data, batch_size, True, generator=generator, collate_fn=collate)


def collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch: inputs by name, and labels."""
    table, pictures, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"table": table, "picture": pictures}, labels


@torch.no_grad()
def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return the loss and the accuracy."""
    net.eval()
    loss, right, total = 0.0, 0, 0
    for inputs, labels in loader:
        outputs = net(inputs)
        logits = outputs if isinstance(outputs, Tensor) else outputs.fused_logits
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return loss / total, right / total
