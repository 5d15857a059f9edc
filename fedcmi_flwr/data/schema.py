"""The prepared-directory contract: what ``data_prep`` writes and ``fedcmi_flwr.data`` reads.

Layout of one prepared directory::

    dataset.json                 DatasetSpec; written last, so its presence means "finished"
    recipes.json                 how a file becomes a stored sample, per modality: what inference on files needs
    <split>/<modality>.npy       [samples, *shape], rows of absent modalities hold zeros
    <split>/labels.npy           [samples], int64 class indices
    <split>/samples.csv          id, label, group, modalities ("audio+visual"), source

Everything is readable by NumPy and a text editor; nothing is pickled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
SAMPLE_COLUMNS = ("id", "label", "group", "modalities", "source")
AXES = {
    "spectrogram": ("channels", "frequency", "time"),
    "image": ("channels", "height", "width"),
    "frames": ("time", "channels", "height", "width"),
    "tokens": ("time",),
    "series": ("channels", "time"),
    "vector": ("features",),
}
"""Kind -> axes of one sample. Tokens are integers, 0 is padding."""
KINDS = tuple(AXES)
VECTOR_DTYPES = ("float32", "float16")
"""What features may be stored in."""


Recipe = Mapping[str, Any]
"""How one modality's samples are made of files: "maker", a name in
``data_prep/files/makers.py``, and arguments."""


class SchemaError(ValueError):
    """A prepared directory that does not keep the contract."""


@dataclass(frozen=True)
class ModalitySpec:
    """One input stream as stored.

    A stored value v is fed to the encoder as ``(v - mean) / std``; tokens are fed as they are.
    """

    name: str
    """What the modality is called in run configurations ("audio", "visual", any string)."""
    kind: str
    """One of KINDS; decides which encoders fit."""
    shape: tuple[int, ...]
    """Shape of one sample, without the sample axis."""
    dtype: str
    """NumPy name of the stored dtype."""
    mean: float | tuple[float, ...] = 0.0
    """Subtracted after loading, in stored units; one value, or one per channel, or per feature
    of a vector."""
    std: float | tuple[float, ...] = 1.0
    """Divided by after loading, in stored units; greater than 0, as many values as ``mean`` may
    have."""

    @property
    def channels(self) -> int:
        """Length of the channel axis; tokens have none, which is a SchemaError."""
        if "channels" not in AXES[self.kind]:
            raise SchemaError(f"modality {self.name!r}: {self.kind} have no channels.")
        return self.shape[AXES[self.kind].index("channels")]

    @property
    def axes_behind(self) -> int:
        """Axes after the one along which mean and std may differ: channels, or features.

        SchemaError: there is none.
        """
        if self.kind == "vector":
            return 0
        if "channels" not in AXES[self.kind]:
            raise SchemaError(
                f"modality {self.name!r}: {self.kind} have neither channels nor features."
            )

        return AXES[self.kind][::-1].index("channels")

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "ModalitySpec":
        """Return the description that :meth:`to_json` wrote."""
        return ModalitySpec.from_fields(json.loads(text))

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> "ModalitySpec":
        """Return the description of these fields as JSON holds them, with lists where there are
        tuples.
        """
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()
        }
        return ModalitySpec(**{**values, "shape": tuple(fields["shape"])})


@dataclass(frozen=True)
class DatasetSpec:
    """The contents of ``dataset.json``."""

    name: str
    task: str
    classes: tuple[str, ...]
    """Class names in index order."""
    modalities: tuple[ModalitySpec, ...]
    splits: dict[str, int]
    """Number of samples of each split."""
    settings: dict[str, Any]
    """Every setting of the preparation, corruption levels and seed included."""
    tools: dict[str, str]
    """Versions of what decoded and transformed the media."""
    schema_version: int = SCHEMA_VERSION

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the modalities, in stored order."""
        return tuple(modality.name for modality in self.modalities)


def array_path(directory: Path, split: str, modality: str) -> Path:
    """Return where the array of one modality of one split is stored."""
    return directory / split / f"{modality}.npy"


def labels_path(directory: Path, split: str) -> Path:
    """Return where the class indices of one split are stored."""
    return directory / split / "labels.npy"


def samples_path(directory: Path, split: str) -> Path:
    """Return where the sample table of one split is stored."""
    return directory / split / "samples.csv"


def write_recipes(directory: Path, recipes: Mapping[str, Recipe]) -> None:
    """Write ``recipes.json``: modality -> recipe, of every stored modality."""
    text = json.dumps(
        {name: dict(recipe) for name, recipe in recipes.items()}, indent=2, sort_keys=True
    )
    (directory / "recipes.json").write_text(text + "\n", encoding="utf-8")


def read_recipes(directory: Path) -> dict[str, Recipe]:
    """Read ``recipes.json``.

    Parameters
    ----------
    directory
        A prepared directory.

    Returns
    -------
    Modality -> recipe; none where an earlier release prepared the directory, or another program.

    Raises
    ------
    SchemaError
        The file is not a JSON object of objects.
    """
    path = directory / "recipes.json"
    if not path.is_file():
        return {}

    try:
        recipes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{path}: not JSON ({error}); prepare the data again.") from error

    if not isinstance(recipes, dict) or not all(
        isinstance(recipe, dict) for recipe in recipes.values()
    ):
        raise SchemaError(f"{path}: must hold an object of objects; prepare the data again.")

    return recipes


def write_spec(directory: Path, spec: DatasetSpec) -> None:
    """Write ``dataset.json``.

    Call it last, since its presence means that the directory is finished.
    """
    text = json.dumps(asdict(spec), indent=2, sort_keys=True, allow_nan=False)
    (directory / "dataset.json").write_text(text + "\n", encoding="utf-8")


def read_spec(directory: Path) -> DatasetSpec:
    """Read and check ``dataset.json``.

    Parameters
    ----------
    directory
        A prepared directory.

    Returns
    -------
    The dataset's description.

    Raises
    ------
    FileNotFoundError
        There is no ``dataset.json``: the directory is missing or its preparation never finished.
    SchemaError
        The file is not JSON, has missing or unknown fields, another schema version, or values
        out of range.
    """
    path = directory / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found. {directory} is not a finished prepared directory; make one with "
            "`fedcmi prep`."
        )

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.get("schema_version")
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"{path}: schema version {version!r}, this release reads {SCHEMA_VERSION}; "
                "prepare the data again."
            )

        modalities = tuple(ModalitySpec.from_fields(modality) for modality in fields["modalities"])
        spec = DatasetSpec(
            **{**fields, "classes": tuple(fields["classes"]), "modalities": modalities}
        )
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise SchemaError(
            f"{path}: not a dataset description ({error}); prepare the data again."
        ) from error

    check_spec(path, spec)

    return spec


def check_spec(path: Path, spec: DatasetSpec) -> None:
    """Raise SchemaError for values out of range; ``path`` is named in the message."""
    _check_types(path, spec)
    if len(spec.classes) < 2 or not spec.modalities:
        raise SchemaError(
            f"{path}: needs two or more classes and at least one modality, "
            f"found {len(spec.classes)} and {len(spec.modalities)}."
        )

    for modality in spec.modalities:
        if modality.kind not in KINDS:
            raise SchemaError(
                f"{path}: modality {modality.name!r} is of kind {modality.kind!r}, not one of "
                f"{KINDS}."
            )

        axes = AXES[modality.kind]
        if len(modality.shape) != len(axes):
            raise SchemaError(
                f"{path}: modality {modality.name!r} is {modality.kind} of shape "
                f"{list(modality.shape)}, must be [{', '.join(axes)}]."
            )

        _check_normalisation(path, modality)


def _check_types(path: Path, spec: DatasetSpec) -> None:
    """Raise SchemaError for values of other types than the fields have.

    Files may be written by hand.
    """
    texts = {
        "name": spec.name,
        "task": spec.task,
        **{f"class {n}": name for n, name in enumerate(spec.classes)},
    }
    wrong: dict[str, object] = {
        where: value for where, value in texts.items() if not isinstance(value, str)
    }
    counts: dict[str, object] = {f"split {split!r}": count for split, count in spec.splits.items()}
    for modality in spec.modalities:
        where = f"modality {modality.name!r}"
        words: dict[str, object] = {
            f"{where}, {key}": getattr(modality, key) for key in ("name", "kind", "dtype")
        }
        wrong |= {key: value for key, value in words.items() if not isinstance(value, str)}
        counts |= {f"{where}, shape[{n}]": side for n, side in enumerate(modality.shape)}

        for key, value in (("mean", modality.mean), ("std", modality.std)):
            values: tuple[object, ...] = value if isinstance(value, tuple) else (value,)
            wrong |= {f"{where}, {key}": each for each in values if not _is_number(each)}

    wrong |= {
        where: n
        for where, n in counts.items()
        if isinstance(n, bool) or not isinstance(n, int) or n < 0
    }
    if wrong:
        place, strange = next(iter(wrong.items()))
        raise SchemaError(
            f"{path}: {place} is {strange!r}; names are text, sizes integers, mean and std finite "
            "numbers."
        )

    if len(set(spec.classes)) < len(spec.classes):
        raise SchemaError(f"{path}: classes {list(spec.classes)} must differ.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_normalisation(path: Path, modality: ModalitySpec) -> None:
    where = f"{path}: modality {modality.name!r}"
    if modality.kind == "vector" and modality.dtype not in VECTOR_DTYPES:
        raise SchemaError(
            f"{where}: a vector must be {' or '.join(VECTOR_DTYPES)}, found {modality.dtype}."
        )

    if modality.kind == "tokens":
        if not modality.dtype.startswith(("int", "uint")) or (modality.mean, modality.std) != (
            0,
            1,
        ):
            raise SchemaError(
                f"{where}: tokens must be integers with mean 0 and std 1, found {modality.dtype}, "
                f"{modality.mean} and {modality.std}."
            )
        return

    for name, value in (("mean", modality.mean), ("std", modality.std)):
        expected = modality.shape[-1 - modality.axes_behind]
        if isinstance(value, tuple) and len(value) != expected:
            raise SchemaError(
                f"{where} has {len(value)} values of {name}, must be one, or {expected}."
            )

    if not all(
        std > 0 for std in (modality.std if isinstance(modality.std, tuple) else (modality.std,))
    ):
        raise SchemaError(f"{where} has std {modality.std}, must be above 0.")
