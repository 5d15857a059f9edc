"""What a federation standardises by: each node writes sums of its values, the server adds them.

Series, vectors and the numbers of tables have units of their own. The server's description has the
mean and deviation of its own samples (``federation.py``); with a file of sums from each device it
has those of all. A file holds for each feature how many values there are, their sum and the sum of
their squares, and nothing of fewer than FEWEST values.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from data_prep.media.table import Table
from data_prep.pipeline.assembly import BY_FIRST_AXIS, ROUNDING
from fedcmi_flwr.data.finite import chunks
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import ModalitySpec, Recipe, read_recipes
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.types import Modality

VERSION = 1
"""Of the file."""
FEWEST = 5
"""Values that a sum is of, at least: one of fewer says about as much as the values themselves."""
CANCELLED = 1e-12
"""A variance that is smaller, relative to the mean square, is one of rounding."""
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Sums:
    """Of one modality of one node, by feature; of values as the description standardises them."""

    mean: Numbers
    """That the values were standardised by."""
    std: Numbers
    count: tuple[int, ...]
    """Values that are there; 0 where there are fewer than FEWEST, whose sums are 0 then."""
    total: Numbers
    squares: Numbers

    def __post_init__(self) -> None:
        """Check what another machine wrote."""
        found = [self.mean, self.std, self.total, self.squares]
        numbers = np.array(found, np.float64)  # ValueError where they are of different lengths
        whole = all(
            isinstance(count, int) and (count == 0 or count >= FEWEST) for count in self.count
        )
        if numbers.shape != (4, len(self.count)) or not np.isfinite(numbers).all() or not whole:
            raise ValueError(f"sums must be finite, and of no or of {FEWEST} and more values")


def standardised(modality: ModalitySpec, recipe: Recipe) -> NDArray[np.bool_]:
    """Return which features are standardised as measured: all, or the numbers of a table."""
    if modality.kind not in BY_FIRST_AXIS:
        return np.zeros(0, bool)
    if recipe.get("maker") != "table":
        return np.ones(modality.shape[0], bool)

    table = Table.of(recipe)

    return np.array(table.by_column(dict.fromkeys(table.fill, 1.0), 0.0)).astype(bool)


def sum_up(directory: Path) -> dict[Modality, Sums]:
    """Add up the training samples of a prepared directory.

    Parameters
    ----------
    directory
        A device's, prepared by the server's description.

    Returns
    -------
    Modality -> sums, of those that are standardised by what is measured.

    Raises
    ------
    FileNotFoundError
        No prepared directory.
    PrepError
        There is no train split, or no modality to be standardised.
    """
    samples, recipes = load_split(directory, "train"), read_recipes(directory)
    found = {}
    for column, modality in enumerate(samples.modalities):
        chosen = standardised(modality, recipes.get(modality.name, {}))
        if not chosen.any():
            continue

        mean, std = (
            _by_feature(value, modality)[chosen] for value in (modality.mean, modality.std)
        )
        count, total, squares = (
            np.zeros(len(mean), np.int64),
            np.zeros(len(mean)),
            np.zeros(len(mean)),
        )
        rows = samples.rows[samples.has[samples.rows, column]]

        for _, values in chunks(samples.arrays[modality.name], rows):
            flat = np.asarray(values, np.float64).reshape(len(values), modality.shape[0], -1)
            scaled = (flat[:, chosen] - mean[:, None]) / std[:, None]
            there = _there(flat, chosen, recipes.get(modality.name, {}))
            count += there.sum(axis=(0, 2))
            total += (scaled * there).sum(axis=(0, 2))
            squares += (scaled**2 * there).sum(axis=(0, 2))

        enough = count >= FEWEST
        parts = [np.where(enough, each, 0).tolist() for each in (count, total, squares)]
        found[modality.name] = Sums(tuple(mean.tolist()), tuple(std.tolist()), *map(tuple, parts))

    if not found:
        raise PrepError(
            f"{directory}: no modality is standardised by what is measured; there is nothing to "
            "sum up."
        )

    return found


def _by_feature(value: float | tuple[float, ...], modality: ModalitySpec) -> NDArray[np.float64]:
    return np.broadcast_to(np.array(value, np.float64), modality.shape[:1])


def _there(
    values: NDArray[np.float64], chosen: NDArray[np.bool_], recipe: Recipe
) -> NDArray[np.bool_]:
    """Return which values are no filling: of a table those whose mask, behind them, is 0."""
    if recipe.get("maker") != "table":
        return np.ones_like(values, bool)
    return ~values[:, np.roll(chosen, 1)].astype(bool)


def write_sums(directory: Path, path: Path) -> dict[Modality, Sums]:
    """Write the sums of a prepared directory, for the server; raises as :func:`sum_up`."""
    found = sum_up(directory)
    content = {
        "sums_version": VERSION,
        "modalities": {name: asdict(sums) for name, sums in found.items()},
    }
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")

    return found


def read_sums(path: Path) -> dict[Modality, Sums]:
    """Read the file that :func:`write_sums` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Modality -> sums.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    PrepError
        It is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, expected what `fedcmi prep sums` wrote on a device."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["sums_version"] != VERSION:
            raise ValueError(f"version {content['sums_version']!r}, this release reads {VERSION}")

        return {name: _read(fields) for name, fields in content["modalities"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepError(f"{path}: not a device's sums ({error}); write them again.") from error


def _read(fields: Mapping[str, Sequence[Any]]) -> Sums:
    """Return the sums of one modality as JSON holds them."""
    numbers = {key: tuple(map(float, fields[key])) for key in ("mean", "std", "total", "squares")}
    return Sums(count=tuple(fields["count"]), **numbers)


def restandardise(
    modality: ModalitySpec, recipe: Recipe, files: Mapping[Path, Mapping[Modality, Sums]]
) -> tuple[ModalitySpec, Recipe]:
    """Return a modality with the mean and standard deviation of all nodes that sent sums.

    Parameters
    ----------
    modality
        As the server described it.
    recipe
        Its recipe; that of a table fills missing cells with the new means.
    files
        File -> what :func:`read_sums` found there.

    Returns
    -------
    Both anew; as they are where no file has the modality. A feature of which no node has values
    stays as it is.

    Raises
    ------
    PrepError
        Sums of values that were standardised otherwise than the server described.
    """
    sent = {path: sums[modality.name] for path, sums in files.items() if modality.name in sums}
    chosen = standardised(modality, recipe)
    if not sent or not chosen.any():
        return modality, recipe

    means = _by_feature(modality.mean, modality).copy()
    stds = _by_feature(modality.std, modality).copy()
    for path, sums in sent.items():
        _check_standardised(path, modality.name, sums, means[chosen], stds[chosen])

    count = _added([sums.count for sums in sent.values()])
    there, places = count > 0, np.flatnonzero(chosen)[count > 0]
    shift = _added([sums.total for sums in sent.values()])[there] / count[there]
    square = _added([sums.squares for sums in sent.values()])[there] / count[there]
    variance = square - shift**2
    variance[variance <= CANCELLED * square] = 0
    means[places] += stds[places] * shift
    stds[places] *= np.sqrt(variance)
    stds[stds <= ROUNDING * np.abs(means)] = 1  # what never changes

    again = dict(recipe)
    if recipe.get("maker") == "table":
        numeric = [column for column in recipe["columns"] if column in recipe["fill"]]
        again["fill"] = dict(zip(numeric, means[chosen].tolist(), strict=True))

    return replace(modality, mean=_packed(means), std=_packed(stds)), again


def _check_standardised(
    path: Path, name: Modality, sums: Sums, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> None:
    """Refuse sums of values that were standardised otherwise than the server's."""
    here, there = (sums.mean, sums.std), (tuple(mean.tolist()), tuple(std.tolist()))
    if here == there:
        return

    shown = [f"means {each[0][:4]} and deviations {each[1][:4]}" for each in (here, there)]
    raise PrepError(
        f"{path}: {name!r} was standardised by {shown[0]} on the device, {shown[1]} on the server; "
        "prepare the device's data by the server's present description, and sum up again."
    )


def _added(parts: Sequence[Sequence[int] | Sequence[float]]) -> NDArray[np.float64]:
    """Add up by feature, to the same bits in whatever order the files come."""
    return np.array([math.fsum(column) for column in zip(*parts, strict=True)])


def _packed(values: NDArray[np.float64]) -> float | tuple[float, ...]:
    return values.item() if len(values) == 1 else tuple(values.tolist())
