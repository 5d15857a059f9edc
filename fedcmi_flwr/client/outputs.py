"""What a module of the user's returns, as a method reads it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from fedcmi_flwr.types import ModelOutput

Part = TypeVar("Part")
PARTS = tuple(item.name for item in fields(ModelOutput))
"""What a model may return by name; only "fused_logits" is needed by every method."""


class MissingOutputError(KeyError):
    """A method looks for something that the model does not return.

    The text says what and what to do.
    """

    def __str__(self) -> str:
        """Return the text as it is, without a key's quotation marks."""
        return str(self.args[0])


class _PerModality(dict[str, Part]):
    """One of the outputs by modality.

    A modality that is not there is an error that says what is needed.
    """

    def __init__(self, part: str, values: Mapping[str, Part]) -> None:
        super().__init__(values)
        self._part = part

    def __missing__(self, modality: str) -> Part:
        raise MissingOutputError(
            f"the method reads {self._part}[{modality!r}] of the model's outputs, which hold it "
            f"of {sorted(self)}. Return a mapping with the key {self._part!r} (modality -> "
            "tensor), as fedcmi_flwr.types.ModelOutput has it, or build the model with "
            "fedcmi_flwr.client.wrap."
        )


def as_model_output(outputs: Any) -> ModelOutput:  # noqa: ANN401
    """Return what a model returned as a :class:`ModelOutput`.

    Parameters
    ----------
    outputs
        Fused logits [batch, classes]; or a mapping with some of the names in PARTS; or a
        ModelOutput.

    Returns
    -------
    The same; reading what is not there raises :class:`MissingOutputError`.

    Raises
    ------
    TypeError
        Something else, or a mapping without "fused_logits".
    """
    if isinstance(outputs, ModelOutput):
        return outputs

    named: Any = {"fused_logits": outputs} if isinstance(outputs, Tensor) else outputs
    if not isinstance(named, Mapping) or not isinstance(named.get("fused_logits"), Tensor):
        found = (
            f"the keys {sorted(map(str, named))}"
            if isinstance(named, Mapping)
            else type(outputs).__name__
        )
        raise TypeError(
            "outputs: need logits [batch, classes], or a mapping with 'fused_logits' and more of "
            f"{list(PARTS)}; found {found}. Where a model returns an object of its own, hand over "
            "its logits."
        )

    parts = {
        part: _PerModality(part, named.get(part, {})) for part in PARTS if part != "fused_logits"
    }

    return ModelOutput(fused_logits=named["fused_logits"], **parts)
