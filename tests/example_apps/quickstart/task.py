"""Model, data and evaluation, as in Flower's quickstart.

Nothing but `fedcmi_net` knows of a method.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedcmi_flwr.client import WrappedModel, wrap

CLASSES = 4


def image_net() -> nn.Module:
    """Return a small CNN over images [batch, 1, 8, 8]."""
    layers = [nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 16, 16))


def sound_net() -> nn.Module:
    """Return an MLP over sound features [batch, 12]."""
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16))


class Net(nn.Module):
    """Both encoders and one classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.sound = image_net(), sound_net()
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return logits."""
        z = torch.cat([self.image(inputs["image"]), self.sound(inputs["sound"])], dim=1)
        return self.classifier(z)


def fedcmi_net(method: str = "fedcmi") -> WrappedModel:
    """Return FedCMI's model round the same encoders."""
    return wrap({"image": image_net(), "sound": sound_net()}, CLASSES, method=method)


def collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch: inputs by name, and labels."""
    images, sounds, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"image": images, "sound": sounds}, labels


def load_data(partition: int, num_samples: int = 96) -> DataLoader:
    """Make labelled pairs of an image and a sound; the sound is easier to tell."""
    generator = torch.Generator().manual_seed(partition)
    labels = torch.randint(0, CLASSES, (num_samples,), generator=generator)
    images = torch.randn(num_samples, 1, 8, 8, generator=generator)
    images[torch.arange(num_samples), 0, labels] += 1.0
    sounds = torch.randn(num_samples, 12, generator=generator)
    sounds[torch.arange(num_samples), labels] += 3.0
    shuffled = torch.Generator().manual_seed(partition)
    return DataLoader(
        TensorDataset(images, sounds, labels), 16, True, generator=shuffled, collate_fn=collate
    )


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
