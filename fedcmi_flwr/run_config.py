"""The only reader of run-config: every key known, present and in range, or a :class:`ConfigError`.

The values that a run starts from stand in ``pyproject.toml``, under ``[tool.flwr.app.config]``;
what each key may be, with the settings that ``SECTIONS`` names and, for hyperparameters, with
the methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.aggregation.privacy import Privacy, check_protected
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.config.fields import ConfigError, Settings
from fedcmi_flwr.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    MachineConfig,
    ModelConfig,
    TrackingConfig,
    TrainingConfig,
    ViewConfig,
    keys_of,
    read_section,
)
from fedcmi_flwr.config.selection import SelectionConfig
from fedcmi_flwr.config.texts import read_assignments
from fedcmi_flwr.config.work import WorkConfig
from fedcmi_flwr.lookup import UnknownNameError, find
from fedcmi_flwr.methods import METHODS, Method, hyperparameters, make_method
from fedcmi_flwr.methods.hyperparameters import with_hyperparameters
from fedcmi_flwr.models.adapters import read_adapters
from fedcmi_flwr.models.building import named_encoders, portable_encoders
from fedcmi_flwr.models.fusion import FUSION
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.strategy.tolerance import Tolerance
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Scalar

METHOD_DEFAULT = "default"
"""The value of a hyperparameter's key that leaves it to the method."""
RUN_KEYS = {
    "run-dir": "Where the server writes the run's results; empty: a new directory below the cache "
    "directory.",
    "method": "What nodes and server do beside averaging: FedAvg, FedCMI or another method.",
    "method-options": "Hyperparameters of the method; those of a method from outside have no keys of their own.",
}
"""Keys that stand in no section -> what they mean."""
RECORD_KEYS = ("server-round", "dominant", "classes", "dataset", "server")
"""Other keys of the messages and records that hold hyperparameters too."""
HYPERPARAMETER_KEYS = tuple(
    sorted({key for method in METHODS.values() for key in hyperparameters(method)})
)

PATH_KEYS = ("data", "run-dir", "pretrained", "start-from")
"""Keys that name paths on one machine, which are no business of who gets a model; config.json
has them."""


@dataclass(frozen=True)
class RunConfig:
    """A whole run-config, checked."""

    run_dir: str
    """Where the server writes; empty: a new directory below the cache directory."""
    method_name: str
    method: Method
    data: DataConfig
    model: ModelConfig
    views: ViewConfig
    federation: FederationConfig
    sampling: Sampling
    tolerance: Tolerance
    evaluation: EvaluationConfig
    server_optimizer: ServerOptimizer
    aggregation: RobustAggregation
    guards: Guards
    privacy: Privacy
    training: TrainingConfig
    work: WorkConfig
    machine: MachineConfig
    checkpoints: CheckpointConfig
    selection: SelectionConfig
    tracking: TrackingConfig
    raw: Mapping[str, Scalar]
    """The run-config as it came, for the record."""


SECTIONS: Mapping[str, type[Settings]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "views": ViewConfig,
    "federation": FederationConfig,
    "sampling": Sampling,
    "tolerance": Tolerance,
    "evaluation": EvaluationConfig,
    "server_optimizer": ServerOptimizer,
    "aggregation": RobustAggregation,
    "guards": Guards,
    "privacy": Privacy,
    "training": TrainingConfig,
    "work": WorkConfig,
    "machine": MachineConfig,
    "checkpoints": CheckpointConfig,
    "selection": SelectionConfig,
    "tracking": TrackingConfig,
}
"""Field of :class:`RunConfig` -> settings; together they have every key but those of the run and
the method."""


def read_run_config(raw: Mapping[str, Scalar]) -> RunConfig:
    """Check a run-config and put it in order.

    Parameters
    ----------
    raw
        Flower's ``context.run_config``.

    Returns
    -------
    The configuration.

    Raises
    ------
    ConfigError
        An unknown or missing key, or a value out of range.
    """
    known = {*RUN_KEYS, *HYPERPARAMETER_KEYS, *_section_keys()}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r} in the run-config; known are {', '.join(sorted(known))}."
            f"{did_you_mean(unknown[0], known)}"
        )

    missing = sorted(known - set(raw))
    if missing:
        raise ConfigError(
            f"key {missing[0]!r} is missing in the run-config (in all: {', '.join(missing)})."
        )

    run_dir = _read_run_dir(raw)
    try:
        sections: dict[str, Any] = {
            part: read_section(kind, raw) for part, kind in SECTIONS.items()
        }
    except ModuleNotFoundError as error:  # of an extra that the configuration needs
        raise ConfigError(str(error)) from error

    method = _read_method(raw)
    name = str(raw["method"])
    _check_names(sections["model"], name, method)
    _check_together(sections, method)

    return RunConfig(run_dir, name, method, raw=dict(raw), **sections)


def _read_method(raw: Mapping[str, Scalar]) -> Method:
    """Return the method with what its keys and ``method-options`` say of its hyperparameters."""
    name, options = str(raw["method"]), raw["method-options"]
    values = {key: raw[key] for key in HYPERPARAMETER_KEYS if raw[key] != METHOD_DEFAULT}
    try:
        method = make_method(name, values)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    for key in sorted(set(hyperparameters(method)) & {*RUN_KEYS, *RECORD_KEYS, *_section_keys()}):
        raise ConfigError(
            f"method = {name!r}: its hyperparameter {key!r} has the name of another key; rename it."
        )

    try:
        chosen = read_assignments(str(options))
        for key in sorted(set(chosen) & set(values)):
            raise ValueError(f"{key} has a value already, {values[key]!r}.")

        return with_hyperparameters(method, name, chosen)
    except ValueError as error:
        raise ConfigError(f"in method-options = {options!r}: {error}") from error


def _check_names(model: ModelConfig, name: str, method: Method) -> None:
    """Raise ConfigError unless the names of encoders and the fusion head stand for something that
    goes together.
    """
    named_encoders(model.encoder)
    read_adapters(model.adapter)
    try:
        find(FUSION, model.fusion)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from error

    if method.fusions is not None and model.fusion not in method.fusions:
        raise ConfigError(
            f"fusion = {model.fusion!r}: method {name!r} needs {' or '.join(method.fusions)}."
        )


def _check_together(sections: Mapping[str, Any], method: Method) -> None:
    """Raise ConfigError where values of several sections do not go together."""
    fraction_evaluate = sections["sampling"].fraction_evaluate
    if sections["data"].validation_share > 0 and fraction_evaluate > 0:
        raise ConfigError(
            "fraction-evaluate: nodes evaluate on the test split, which validation-share leaves "
            "alone; 0."
        )
    if sections["evaluation"].personal_epochs > 0 and fraction_evaluate == 0:
        raise ConfigError(
            "personal-epochs: nobody evaluates, since fraction-evaluate is 0; set it above 0."
        )
    if (
        sections["evaluation"].personal_models == "keep"
        and sections["evaluation"].personal_epochs == 0
    ):
        raise ConfigError(
            "personal-models = 'keep': no node trains heads of its own; set personal-epochs "
            "above 0."
        )

    _check_steps(sections["training"], method)
    if sections["privacy"].enabled:
        bounds = (sections["aggregation"].name, sections["guards"].max_example_ratio)
        try:
            check_protected(method, fraction_evaluate, *bounds)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _check_steps(training: TrainingConfig, method: Method) -> None:
    """Raise ConfigError where the method cannot do with the optimiser or with accumulated
    gradients.
    """
    if training.optimizer != "sgd" and method.needs_sgd:
        raise ConfigError(
            f"optimizer = {training.optimizer!r}: the method {method.needs_sgd}; set optimizer to "
            "'sgd', or take another method."
        )
    if training.accumulate_batches > 1 and method.needs_single_batches:
        raise ConfigError(
            f"accumulate-batches = {training.accumulate_batches}: the method "
            f"{method.needs_single_batches}; set it to 1, or take another method."
        )


def _read_run_dir(raw: Mapping[str, Scalar]) -> str:
    run_dir = raw["run-dir"]
    if not isinstance(run_dir, str) or (run_dir and not Path(run_dir).is_absolute()):
        raise ConfigError(
            f"run-dir = {run_dir!r}: must be the absolute path of a new run-dir, or empty (str)."
        )

    for key, needs in (
        ("resume", raw["resume"] is True),
        ("node-memory", raw["node-memory"] == "run-dir"),
    ):
        if needs and not run_dir:
            raise ConfigError(f"{key} = {raw[key]!r}: needs the run's directory, run-dir.")

    return run_dir


def _section_keys() -> set[str]:
    return {key for keys in section_keys().values() for key in keys}


def section_keys() -> dict[str, list[str]]:
    """Return the keys of every section of the run-config by its name in words.

    A key may be in two of them.
    """
    return {part.replace("_", " "): keys_of(kind) for part, kind in SECTIONS.items()}


def portable_settings(raw: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a run-config as a model's file holds it: without the paths of this machine."""
    kept = {key: value for key, value in raw.items() if key not in PATH_KEYS}
    return {**kept, "encoder": portable_encoders(str(raw["encoder"]))}
