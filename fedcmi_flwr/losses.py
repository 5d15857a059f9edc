"""The equations of FedCMI as pure functions of tensors, under the name that users' apps import them
by.
"""

from fedcmi_flwr.methods.losses import (
    class_ratio,
    class_temperature,
    cross_entropy,
    dominant_modality,
    knowledge_distillation,
    log_class_probability,
    masked_mean,
    true_class_probability,
)

__all__ = [
    "class_ratio",
    "class_temperature",
    "cross_entropy",
    "dominant_modality",
    "knowledge_distillation",
    "log_class_probability",
    "masked_mean",
    "true_class_probability",
]
