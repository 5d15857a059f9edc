"""What the server reads of the data before a run.

What is trained on, and the samples that it keeps for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.builtin import locate
from fedcmi_flwr.data.prepared import check_modality_names
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import DatasetSpec, read_recipes, read_spec
from fedcmi_flwr.data.views import check_views, views_from
from fedcmi_flwr.models.building import check_stored, chosen_modalities, split_names
from fedcmi_flwr.models.pretrained import read_locations
from fedcmi_flwr.models.published import locations_of
from fedcmi_flwr.run_config import RunConfig
from fedcmi_flwr.types import Modality
from server_app.run.held_out import calibration_samples, reported_samples, selection_samples


@dataclass(frozen=True)
class ServerData:
    """The data of a run, as the server knows them."""

    spec: DatasetSpec
    """The data set, with the modalities that the run trains on."""
    recipes: Mapping[Modality, Any]
    """How files become samples."""
    locations: Mapping[Modality, str]
    """Modality -> its pretrained trunk."""
    reported: Samples
    """The samples that accuracies are measured on."""
    calibration: Samples | None
    """The samples on which decision rules and temperatures are chosen; None: there are none."""
    selection: Samples | None
    """The samples on which the best round is chosen; None: no best round is asked for."""


def read_server_data(config: RunConfig) -> ServerData:
    """Read and check them.

    Parameters
    ----------
    config
        The run's.

    Returns
    -------
    The data.

    Raises
    ------
    ConfigError
        A key that does not fit the data.
    DataError
        The data are not there.
    """
    prepared = locate(config.data.data, config.data.data_set)
    stored = read_spec(prepared)
    chosen = chosen_modalities(config.data.modalities, stored.modality_names)
    check_modality_names(chosen)
    spec = replace(stored, modalities=tuple(m for m in stored.modalities if m.name in chosen))
    recipes = {name: recipe for name, recipe in read_recipes(prepared).items() if name in chosen}

    views = views_from(config.views)
    check_views(views, stored.modalities)
    sources = (prepared, chosen, config.data, config.training.seed)
    reported, calibration = (
        replace(reported_samples(*sources), views=views),
        calibration_samples(*sources),
    )
    calibration = None if calibration is None else replace(calibration, views=views)

    check_stored("freeze", split_names(config.model.freeze), stored.modality_names)
    check_stored("pretrained", read_locations(config.model.pretrained), stored.modality_names)
    locations = locations_of(config.model, chosen)
    used = {name: where for name, where in locations.items() if name in chosen}

    return ServerData(
        spec, recipes, used, reported, calibration, selection_samples(reported, calibration, config)
    )
