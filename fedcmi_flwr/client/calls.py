"""Records the arguments of a user's module's call, to call a copy with the same.

Two methods look at the samples of a batch once more, under a frozen model. A user's loop calls
the model as it likes, ``model(images)`` or ``model(ids, mask=mask)``, and need not say again
what it called it with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedcmi_flwr.types import Batch, Modality

_hooks: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()
"""The hook of the last :class:`LastCall` on each module; a round that was broken off left it
there."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, module: nn.Module) -> Any:  # noqa: ANN401
        """Call another module with the same."""
        return module(*self.args, **self.kwargs)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Call":
        """Return the call with its tensors on ``device``."""
        return Call(
            moved(self.args, device, non_blocking), moved(dict(self.kwargs), device, non_blocking)
        )


@dataclass(frozen=True)
class CalledBatch(Batch):
    """A batch of a module whose inputs only the module understands.

    Each modality's inputs are the whole call.
    """

    inputs: Mapping[Modality, Any]

    def to(self, device: torch.device) -> "CalledBatch":
        """Return the batch on ``device``."""
        inputs = {name: call.to(device, non_blocking=True) for name, call in self.inputs.items()}
        labels, present, indices = (
            x.to(device, non_blocking=True) for x in (self.labels, self.present, self.indices)
        )
        return CalledBatch(inputs, labels, present, self.complete, indices)


class LastCall:
    """Remembers the last call of a module, until it is closed or another one watches the same
    module.

    Parameters
    ----------
    module
        The one that is trained; copies of it are not watched.
    """

    def __init__(self, module: nn.Module) -> None:
        found: list[Call] = []
        watched = ref(module)

        def remember(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if called is watched():  # a deep copy takes the hook along
                found[:] = [Call(args, kwargs)]

        self._found = found
        if module in _hooks:
            _hooks[module].remove()

        self._hook = _hooks[module] = module.register_forward_pre_hook(remember, with_kwargs=True)

    @property
    def call(self) -> Call | None:
        """The last call; None before the first."""
        return self._found[0] if self._found else None

    def close(self) -> None:
        """Stop watching, and let go of the last call's tensors."""
        self._hook.remove()
        self._found.clear()


def moved(value: Any, device: torch.device, non_blocking: bool = False) -> Any:  # noqa: ANN401
    """Return nested tuples, lists and mappings with their tensors on ``device``.

    Anything else as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: moved(each, device, non_blocking) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([moved(each, device, non_blocking) for each in value])

    return value
