"""FedCMI's local training as research code writes it: what the benchmarks compare with."""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.methods import CrossModalInfiltration
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch


class PlainTraining:
    """Contiguous float32, the whole global model as teacher, loops over samples and weights, a
    number from each step.

    Parameters
    ----------
    model
        Trained in place.
    method
        FedCMI; its weights are used, its code is not.
    settings
        Of the optimiser.
    dominant
        The modality that teaches.
    temperature
        Weak modality -> temperature of each class.
    """

    def __init__(
        self,
        model: MultimodalModel,
        method: CrossModalInfiltration,
        settings: TrainingConfig,
        dominant: str,
        temperature: Mapping[str, torch.Tensor],
    ) -> None:
        for name in model.owned:
            model.branch(name).encoder.large = False  # contiguous
        self.model, self.method = model.train(), method
        self.global_model = copy.deepcopy(model).eval()
        self.dominant, self.temperature = dominant, temperature
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def step(self, batch: Batch) -> float:
        """Take one step and return its loss without the proximal term."""
        output = self.model(batch)
        loss = F.cross_entropy(output.fused_logits, batch.labels)
        for logits in output.self_logits.values():
            loss = loss + self.method.gamma * F.cross_entropy(logits, batch.labels)
        if self.method.lambda_ > 0:
            with torch.no_grad():
                teacher = self.global_model(batch).self_logits[self.dominant]
            for name, temperature in self.temperature.items():
                student = output.infiltration_logits[name]
                loss = loss + self.method.lambda_ * self._distillation(
                    batch, teacher, student, temperature
                )
        proximal = torch.zeros((), device=loss.device)
        for w, start in zip(self.model.parameters(), self.global_model.parameters(), strict=True):
            proximal = proximal + (w - start.detach()).square().sum()
        self.optimizer.zero_grad()
        (loss + self.method.mu / 2 * proximal).backward()
        self.optimizer.step()
        return loss.item()

    def _distillation(
        self, batch: Batch, teacher: torch.Tensor, student: torch.Tensor, temperature: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=student.device)
        for i in range(len(batch.labels)):
            t = temperature[batch.labels[i].item()].item()
            total = (
                total
                - (F.softmax(teacher[i] / t, dim=0) * F.log_softmax(student[i] / t, dim=0)).sum()
            )
        return total / len(batch.labels)
