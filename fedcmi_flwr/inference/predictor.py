"""A trained model, used: samples of any of its modalities in, probabilities of the classes out.

    predictor = Predictor.load("runs/my-run")
    predictor.predict_proba({"audio": spectrograms})

Samples come as a prepared directory stores them, and are shown to the model as they are in an
evaluation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedcmi_flwr.data.schema import ModalitySpec, Recipe
from fedcmi_flwr.data.views import Views
from fedcmi_flwr.evaluation.decision import Decisions
from fedcmi_flwr.models.file import MODEL_FILE, load_model
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.models.placement import choose_device
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Batch, Modality

Stored = NDArray[Any] | Tensor


class InputError(ValueError):
    """Samples that a model cannot take."""


class Predictor:
    """A model with all that it takes to use it.

    Any subset of the modalities may be given. How the class is decided is chosen for each subset
    where the model's run had validation data (``decision.py``). A subset that no node has ever
    trained with is predicted all the same: the fusion head's empty slots are filled as the
    model's structure says, which it knows from its training.

    Parameters
    ----------
    model
        The whole model, or some of its branches; put into eval mode.
    metadata
        From its file: inputs, classes, notes.
    device
        Where it predicts.

    Raises
    ------
    ValueError
        Notes that this project did not write, or a model that was never trained.
    """

    def __init__(
        self, model: MultimodalModel, metadata: Mapping[str, Any], device: torch.device
    ) -> None:
        specs = [ModalitySpec.from_fields(fields) for fields in metadata["inputs"]]
        notes = metadata["notes"]
        self.model = model.to(device).eval()
        self.device = device
        self.inputs: tuple[ModalitySpec, ...] = tuple(
            spec for spec in specs if spec.name in model.owned
        )
        """What samples of each modality look like."""
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        """Class names in index order."""
        self.decisions = Decisions.from_notes(notes, model.spec.modalities)
        self.views = views_of(notes)
        if notes.get("round") == 0:
            raise ValueError(
                "the model's run has no finished round: its weights are those it began with; "
                "train it."
            )

        self.rounds: tuple[int, int] = _rounds_of(notes)
        """Finished rounds of its run, and those planned."""
        self.recipes: Mapping[Modality, Recipe] = notes.get("recipes", {})
        """How samples are made of files (``data_prep.files.makers``); none if the data were
        prepared without."""

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", modalities: Sequence[Modality] | None = None
    ) -> "Predictor":
        """Load a model.

        Parameters
        ----------
        path
            A run directory, or its ``model.safetensors``.
        device
            "auto" (a GPU when torch sees one), "cpu" or "cuda".
        modalities
            What will be predicted from, so that the other branches are not loaded; None: anything.

        Returns
        -------
        The model, ready.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        CheckpointError
            It is no model of this project, or lacks one of the modalities.
        """
        file = find_model(Path(path))
        model, metadata = load_model(file, modalities)
        return cls(model, metadata, choose_device(device))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it predicts from, in the model's order."""
        return tuple(spec.name for spec in self.inputs)

    def input(self, modality: Modality) -> ModalitySpec:
        """Return what samples of a modality look like.

        InputError for one that the model does not have.
        """
        for spec in self.inputs:
            if spec.name == modality:
                return spec

        near = did_you_mean(modality, self.modalities)
        raise InputError(f"modality {modality!r}: the model has {list(self.modalities)}.{near}")

    def predict(
        self,
        inputs: Mapping[Modality, Stored],
        present: Mapping[Modality, ArrayLike] | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.int64]:
        """Return the index of each sample's most probable class, [samples].

        As for :meth:`predict_proba`.
        """
        found: NDArray[np.int64] = self.predict_proba(inputs, present, batch_size).argmax(axis=1)
        return found

    def predict_proba(
        self,
        inputs: Mapping[Modality, Stored],
        present: Mapping[Modality, ArrayLike] | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the probability of each class.

        Parameters
        ----------
        inputs
            [samples, *shape] of one or more modalities, in stored units and dtype, not normalised.
        present
            [samples] booleans of modalities that some of the samples lack; what stands in the
            rows of absent ones does not matter. Modalities that are not named are there in all
            samples.
        batch_size
            Samples that are predicted at a time; None: as many as is good.

        Returns
        -------
        [samples, classes], each row adds up to 1; calibrated as far as ``decisions`` says.

        Raises
        ------
        InputError
            No samples, an unknown modality, neither array nor tensor, another shape or dtype
            than the model's, different numbers of samples, values that are not finite, or a
            sample without any modality.
        """
        has = self._check(inputs, present or {})
        used = [spec for spec in self.inputs if spec.name in inputs]
        size = self.views.evaluation_batch(used) if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch_size = {size}: must be 1 or more.")

        parts = [
            self._probabilities(used, inputs, has, start, size)
            for start in range(0, len(has), size)
        ]

        return np.concatenate(parts)

    @torch.inference_mode()
    def _probabilities(
        self,
        used: Sequence[ModalitySpec],
        inputs: Mapping[Modality, Stored],
        has: Tensor,
        start: int,
        size: int,
    ) -> NDArray[np.float32]:
        """Return those of the samples from ``start`` on.

        ``has`` is [samples, modalities of the federation].
        """
        present, rows = has[start : start + size], slice(start, start + size)
        values = {
            spec.name: self._show(spec, inputs[spec.name][rows], present, start) for spec in used
        }
        federation = self.model.spec.modalities
        complete = bool(present[:, [federation.index(spec.name) for spec in used]].all())
        numbers = torch.zeros(len(present), dtype=torch.int64)
        batch = Batch(values, numbers, present, complete, numbers).to(self.device)
        logs = self.decisions.log_probabilities(self.model, self.model(batch), batch.present)
        probabilities: NDArray[np.float32] = logs.exp().cpu().numpy()

        return probabilities

    def _show(
        self,
        spec: ModalitySpec,
        stored: Stored,
        present: Bool[Tensor, "batch modalities"],
        start: int,
    ) -> Tensor:
        """Return the evaluation view of some samples on the device.

        Zeros where they lack the modality.
        """
        values = torch.from_numpy(np.array(stored)) if isinstance(stored, np.ndarray) else stored
        there = present[:, self.model.spec.modalities.index(spec.name)].to(values.device)
        if values.is_floating_point():
            strange = there & ~values.isfinite().flatten(1).all(dim=1)
            if bool(strange.any()):
                row = start + int(strange.int().argmax())
                raise InputError(
                    f"inputs[{spec.name!r}]: sample {row} holds NaN or infinity; mend it, or say "
                    "in present that the sample lacks the modality."
                )

        indices = self.views.frame_indices(spec, len(values), None)
        if indices is not None:
            values = values[:, torch.from_numpy(indices[0]).to(values.device)]

        shown = self.views.show(values.to(self.device), spec, None)
        if bool(there.all()):
            return shown

        absent = ~there.to(self.device).reshape(-1, *[1] * (shown.ndim - 1))

        # Not in place: tokens are shown as they were given, in the same memory
        return shown.masked_fill(absent, 0)

    def _check(
        self, inputs: Mapping[Modality, Stored], present: Mapping[Modality, ArrayLike]
    ) -> Tensor:
        """Return [samples, modalities of the federation]: what each sample has."""
        if not inputs:
            raise InputError(
                f"inputs: no modality is given, need one or more of {list(self.modalities)}."
            )

        counts = {
            name: self._check_array(self.input(name), array) for name, array in inputs.items()
        }
        masks = {name: np.asarray(mask) for name, mask in present.items()}
        absent = [name for name in masks if name not in inputs]
        if absent:
            raise InputError(f"present: {absent[0]!r} is not among the inputs, {list(inputs)}.")

        first = next(iter(counts))
        for what, count in {
            **counts,
            **{f"present[{name!r}]": mask.size for name, mask in masks.items()},
        }.items():
            if count != counts[first]:
                raise InputError(
                    f"{what} has {count} samples, {first!r} has {counts[first]}; give the same "
                    "samples."
                )

        has = torch.zeros(counts[first], len(self.model.spec.modalities), dtype=torch.bool)
        for name in inputs:
            mask = masks.get(name, np.ones(counts[first], dtype=np.bool_))
            if mask.dtype != np.bool_ or mask.ndim != 1:
                raise InputError(
                    f"present[{name!r}]: {mask.dtype} {list(mask.shape)}, must be booleans "
                    "[samples]."
                )

            has[:, self.model.spec.modalities.index(name)] = torch.from_numpy(mask)

        if not bool(has.any(dim=1).all()):
            row = int((~has.any(dim=1)).int().argmax())
            raise InputError(f"present: sample {row} has none of {list(inputs)}; leave it out.")

        return has

    def _check_array(self, spec: ModalitySpec, array: Stored) -> int:
        """Return the number of samples."""
        if not isinstance(array, np.ndarray | Tensor):
            raise InputError(
                f"inputs[{spec.name!r}]: a {type(array).__name__}, must be a NumPy array or a "
                f"torch tensor, [samples, {str(list(spec.shape))[1:]} of {spec.dtype}."
            )

        dtype = str(array.dtype).removeprefix("torch.")
        if tuple(array.shape[1:]) != spec.shape or array.ndim != len(spec.shape) + 1:
            raise InputError(
                f"inputs[{spec.name!r}]: shape {list(array.shape)}, must be [samples, "
                f"{str(list(spec.shape))[1:]}; one sample needs the first axis too."
            )
        if dtype != spec.dtype:
            raise InputError(
                f"inputs[{spec.name!r}]: {dtype}, must be {spec.dtype}, in stored units, as "
                "preparation makes it."
            )
        if len(array) == 0:
            raise InputError(f"inputs[{spec.name!r}]: no samples.")

        return len(array)


def find_model(path: Path) -> Path:
    """Return the model file that a path means: itself, or the one of a run directory.

    FileNotFoundError for neither.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    try:
        with file.open("rb"):
            return file
    except PermissionError as error:
        raise PermissionError(
            f"{file}: may not be read by this user; ask its owner for the right to."
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(
            f"{file}: not found; give a run directory with a finished round, or its {MODEL_FILE}."
        ) from None


def _rounds_of(notes: Mapping[str, Any]) -> tuple[int, int]:
    """Return a run's finished and planned rounds.

    The same number twice where the notes do not say.
    """
    done = int(notes.get("round", 0))
    return done, int(notes.get("run-config", {}).get("num-server-rounds", done))


def views_of(notes: Mapping[str, Any]) -> Views:
    """Return the evaluation views of a model's run.

    ValueError for notes that this project did not write.
    """
    try:
        config = notes["run-config"]
        return Views(size=int(config.get("view-size", 0)), frames=int(config.get("view-frames", 0)))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"notes of the model: how samples are looked at cannot be read ({error!r})."
        ) from error
