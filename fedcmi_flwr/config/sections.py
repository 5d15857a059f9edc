"""The sections of a run configuration: frozen dataclasses that are right once they exist.

A field's key is its name with hyphens (``lr_min`` -> "lr-min"). A missing key and a value of the wrong type or out of
range raise :class:`ConfigError`, which names the key, the value and what is allowed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from fedcmi_flwr.config.names import AGGREGATIONS, INITIALIZATIONS, OPTIMIZERS, WIRE_DTYPES
from fedcmi_flwr.types import Scalar

OWNERSHIPS = ("multimodal-ratio", "random-subsets")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "auto")
NODE_MEMORIES = ("context", "run-dir")
NODE_TESTS = ("shared", "own-distribution")

Section = TypeVar("Section")


class ConfigError(ValueError):
    """A key of a run or node configuration that is unknown, missing or out of range."""


def _number(low: float, high: float = float("inf"), above: bool = False) -> Any:  # noqa: ANN401
    allowed = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < float("inf") else "")

    def check(value: Any) -> bool:  # noqa: ANN401
        return math.isfinite(value) and (low < value if above else low <= value) and value <= high

    return field(metadata={"check": check, "allowed": allowed})


def _choice(*names: str) -> Any:  # noqa: ANN401
    return field(metadata={"check": lambda value: value in names, "allowed": f"one of {', '.join(names)}"})


def _flag() -> Any:  # noqa: ANN401
    return field(metadata={"check": lambda value: True, "allowed": "true or false"})


def _text(allowed: str) -> Any:  # noqa: ANN401
    return field(metadata={"check": lambda value: True, "allowed": allowed})


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is dealt to the nodes."""

    data: str = _text("the name of a built-in data set or the path of a prepared directory")
    """"av-digits", or the absolute path of a prepared directory."""
    modalities: str = _text("names of stored modalities joined by '+', or empty")
    """What the federation trains on, "audio" or "audio+visual"; empty: every modality that is stored. Nodes that own
    none of them take no part."""
    partition: str = _choice("iid", "dirichlet", "natural")
    """Partitioner of flwr-datasets: IID, balanced Dirichlet over labels, or by the samples' natural groups."""
    dirichlet_alpha: float = _number(0, above=True)
    """Concentration of the Dirichlet partitioner; smaller is more skewed."""
    min_partition_size: int = _number(2)
    """Fewest training samples a partition may have."""
    multimodal_ratio: float = _number(0, 1)
    """Share of the nodes that keep every modality; the rest own one each, dealt evenly."""
    ownership: str = _choice(*OWNERSHIPS)
    """How modalities are dealt to simulated nodes: as ``multimodal_ratio`` says, or to each node a non-empty subset of
    them, all subsets being equally likely."""
    missing_share: float = _number(0, 1)
    """Of a simulated node's training samples with two or more of the modalities it trains on, the share that loses one
    of them, drawn by seed and partition; below 1."""
    validation_share: float = _number(0, 0.5)
    """Share of the training split that is cut off, class by class, for the server to evaluate on instead of the test
    split; in simulations only. Groups (speakers) may stand on both sides of the cut."""
    calibration_share: float = _number(0, 0.5)
    """Share of what is left that is cut off in the same way, for the server to choose at the end of the run how the
    model decides (``calibration.py``); in simulations only. 0 where the data has a split of its own for that."""

    def __post_init__(self) -> None:
        """Check what a range cannot say."""
        if self.missing_share == 1:
            raise ConfigError(f"missing-share = {self.missing_share}: must be below 1.")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained."""

    encoder: str = _text("an encoder's name, or 'modality=name modality=name'")
    """One encoder for all modalities, or one per modality: "audio=resnet18 visual=small-cnn". A name is one of
    ``models.encoders.ENCODERS``, an entry point of an installed package, or "package.module:Name"."""
    embedding_dim: int = _number(1)
    """D."""
    projector: str = _choice("linear", "mlp")
    """Kind of both projectors."""
    fusion: str = _text("the name of a fusion head")
    """One of ``models.fusion.FUSIONS``, an entry point of an installed package, or "package.module:Name"."""
    initialization: str = _choice(*INITIALIZATIONS)
    """How the server initialises what is not pretrained: as torch does ("torch"), or as the paper's authors do."""
    pretrained: str = _text("'modality=DIR modality=DIR', or empty")
    """Where the weights of encoders' trunks come from: "text=/weights/bert visual=/weights/resnet18"."""
    freeze: str = _text("names of modalities joined by '+', or empty")
    """Modalities whose encoder's trunk is neither trained nor sent; every node has it in its own directory."""


@dataclass(frozen=True)
class ViewConfig:
    """What encoders see of image and frames modalities; travels to the nodes with every message."""

    augment: str = _text("names of image and frames modalities joined by '+', or empty")
    """Modalities that training crops and mirrors at random, "visual"."""
    view_size: int = _number(0)
    """Height and width of the view in pixels; 0: as stored."""
    view_frames: int = _number(0)
    """Frames of the view: training draws one of each of this many equal segments, evaluation takes the middle ones;
    0: all that are stored."""


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part in a round, and how long the server waits."""

    num_server_rounds: int = _number(1)
    """Rounds of training."""
    fraction_train: float = _number(0, 1, above=True)
    """Share of the known nodes that train in a round."""
    min_train_nodes: int = _number(1)
    """Fewest nodes that train in a round."""
    fraction_evaluate: float = _number(0, 1)
    """Share of the known nodes that evaluate on their own test samples; 0: none."""
    min_available_nodes: int = _number(1)
    """Nodes to wait for before a round starts."""
    server_optimizer: str = _choice(*OPTIMIZERS)
    """What the server does with each group's average: takes it ("none"), or a step of Flower's optimiser."""
    server_lr: float = _number(0)
    """Learning rate of the server's optimiser; 0: 1 for fedavgm, 0.01 for fedadam and fedyogi."""
    server_momentum: float = _number(0, 1)
    """Momentum of fedavgm, beta_1 of fedadam and fedyogi; below 1."""
    wait_timeout: float = _number(0, above=True)
    """Seconds to wait for these nodes before the round fails."""
    round_timeout: float = _number(0, above=True)
    """Seconds to wait for the replies of a round before it goes on without the missing ones."""
    wire_dtype: str = _choice(*WIRE_DTYPES)
    """What float32 weights travel in, both ways; "float16" halves the bytes and keeps 11 of 24 significant bits. What a
    method sends besides weights is not narrowed."""
    min_replies: int = _number(1)
    """A round with fewer replies that can be used fails: the model stays as it was."""
    min_owners_per_modality: int = _number(1)
    """A modality that fewer nodes trained in a round keeps its parameters, and its class statistics do not count."""
    failure_budget: int = _number(0)
    """Failed rounds in a row that are put up with once a round has succeeded; the next one ends the run, which leaves a
    checkpoint to go on from."""

    def __post_init__(self) -> None:
        """Check what a range cannot say."""
        if self.server_momentum == 1:
            raise ConfigError(f"server-momentum = {self.server_momentum}: must be below 1.")


@dataclass(frozen=True)
class EvaluationConfig:
    """What nodes evaluate on their own test samples, with ``fraction_evaluate`` above 0."""

    evaluate_from: int = _number(1)
    """First round after which nodes evaluate."""
    node_test: str = _choice(*NODE_TESTS)
    """What a simulated node evaluates on: every n-th test sample, so that all nodes together have each once ("shared"),
    or test samples drawn by the class shares of its training samples ("own-distribution"), which several nodes may
    have. A device evaluates on the test split of its own directory."""
    personal_epochs: int = _number(0)
    """Passes over its training samples for which a node trains the heads of the received model, to evaluate the result
    beside the received model and throw it away; 0: off."""


@dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy of nodes, ``privacy.py``; the server is trusted."""

    dp_noise_multiplier: float = _number(0)
    """Standard deviation of the noise on each sum over nodes, in units of what one node's part is clipped to; 0: no
    differential privacy."""
    dp_clip_norm: float = _number(0, above=True)
    """Largest norm of a node's update of one parameter group."""
    dp_statistics_clip_norm: float = _number(0, above=True)
    """Largest norm of a node's class statistics, sums and counts of all its modalities together."""
    dp_delta: float = _number(0, 1, above=True)
    """The delta at which epsilon is given; below 1, and well below 1 / number of nodes."""
    dp_max_epsilon: float = _number(0)
    """The run ends, finished, before a round that would spend more; 0: no bound."""

    def __post_init__(self) -> None:
        """Check what a range cannot say."""
        if self.dp_delta == 1:
            raise ConfigError(f"dp-delta = {self.dp_delta}: must be below 1.")


@dataclass(frozen=True)
class GuardConfig:
    """What one node's reply may do to the global model (``guards.py``), and how replies become one (``robust.py``)."""

    max_update_norm: float = _number(0)
    """Largest Euclidean norm of a parameter group's update; 0: off."""
    update_norm_action: str = _choice("clip", "refuse")
    """What becomes of a longer one: the group's update is scaled down, or the reply is refused."""
    max_example_ratio: float = _number(0)
    """Largest num-examples of a reply as a multiple of the median of the round's replies, 1 or more; 0: off."""
    aggregation: str = _choice(*AGGREGATIONS)
    """The mean, weighted by samples, or what a few hostile nodes do not decide, unweighted."""
    trim_share: float = _number(0, 0.5, above=True)
    """Of the owners of a group, what "trimmed-mean" cuts off at each end; below 0.5."""
    malicious_nodes: int = _number(0)
    """How many hostile owners of a group "krum" reckons with."""

    def __post_init__(self) -> None:
        """Check what a range cannot say."""
        if self.trim_share == 0.5:
            raise ConfigError(f"trim-share = {self.trim_share}: must be below 0.5.")
        if 0 < self.max_example_ratio < 1:
            raise ConfigError(f"max-example-ratio = {self.max_example_ratio}: must be 1 or more, or 0 (off).")


@dataclass(frozen=True)
class TrainingConfig:
    """Local training; travels to the nodes with every message."""

    seed: int = _number(0)
    """Seed of everything random."""
    num_server_rounds: int = _number(1)
    """The same key as in FederationConfig: where the learning rate's decay ends."""
    local_epochs: int = _number(1)
    """Passes over the node's samples in a round."""
    batch_size: int = _number(2)
    """Samples in a mini-batch."""
    lr: float = _number(0, above=True)
    """Learning rate of SGD until ``lr_decay_start``."""
    lr_min: float = _number(0)
    """Learning rate of the last round, where it decays."""
    lr_decay_start: int = _number(-1)
    """Last round, counted from 1, at the full learning rate; -1: no decay."""
    momentum: float = _number(0, 1)
    """Momentum of SGD."""
    weight_decay: float = _number(0)
    """Weight decay of SGD."""

    def __post_init__(self) -> None:
        """Check keys against each other."""
        if self.lr_min > self.lr:
            raise ConfigError(f"lr-min = {self.lr_min}: must not exceed lr = {self.lr}.")

    def learning_rate(self, server_round: int) -> float:
        """Return the learning rate of a round (from 1): constant, then linear to ``lr_min`` in the last round.

        Parameters
        ----------
        server_round
            Counted from 1.

        Returns
        -------
        Learning rate, continuous at ``lr_decay_start``.

        Examples
        --------
        >>> schedule = TrainingConfig(0, 5, 1, 32, 0.4, 0.0, 3, 0.9, 0.0)
        >>> [round(schedule.learning_rate(t), 3) for t in (1, 2, 3, 4, 5)]
        [0.4, 0.4, 0.4, 0.2, 0.0]
        """
        start, end = self.lr_decay_start, self.num_server_rounds
        if start < 0 or server_round <= start or end <= start:
            return self.lr
        return self.lr + (self.lr_min - self.lr) * (min(server_round, end) - start) / (end - start)


@dataclass(frozen=True)
class MachineConfig:
    """How a process uses the machine it runs on."""

    device: str = _choice(*DEVICES)
    """"auto" takes a GPU when the process sees one."""
    precision: str = _choice(*PRECISIONS)
    """What nodes' encoders compute in: float32, bfloat16 ("bf16"; weights, heads and losses stay float32), or bfloat16
    for large encoders on a GPU or CPU that has it ("auto")."""
    torch_threads: int = _number(1)
    """CPU threads of torch in each process; another number may change the last bits of the weights."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What a run leaves so that it can go on after its processes have died; a finished run leaves none of it."""

    checkpoint_every: int = _number(0)
    """Rounds between two checkpoints; 0: none. One costs the time and space of writing the model (twice where it is
    averaged), the method's state and the server optimiser's moments to the disk."""
    checkpoint_keep: int = _number(1)
    """Newest checkpoints that are kept."""
    node_memory: str = _choice(*NODE_MEMORIES)
    """Where nodes keep what a method remembers between their turns: in Flower's context ("context"), which lives as
    long as the run and the SuperNode; or below the run directory ("run-dir"), for simulations: ``fedcmi run`` decides
    it by ``checkpoint_every``."""
    resume: bool = _flag()
    """Go on from the newest checkpoint of ``run-dir``; all other keys must be those of the run."""

    def __post_init__(self) -> None:
        """Check keys against each other."""
        if self.node_memory == "run-dir" and self.checkpoint_every == 0:
            raise ConfigError("node-memory = 'run-dir': serves checkpoints only; set checkpoint-every or 'context'.")


def read_section(kind: type[Section], raw: Mapping[str, Any]) -> Section:
    """Build one section from the keys it needs; other keys are not looked at.

    Parameters
    ----------
    kind
        One of the section classes above.
    raw
        Configuration keys and values.

    Returns
    -------
    The section, checked.

    Raises
    ------
    ConfigError
        A missing key, or a value of the wrong type or out of range.
    """
    values = {}
    for item in fields(kind):  # type: ignore[arg-type]  # Section is one of the dataclasses above
        key = item.name.replace("_", "-")
        if key not in raw:
            raise ConfigError(f"key {key!r} is missing.")
        values[item.name] = _checked(key, raw[key], item.type, item.metadata)
    return kind(**values)


def section_items(section: Any) -> dict[str, Scalar]:  # noqa: ANN401
    """Return a section's keys and values, the reverse of :func:`read_section`."""
    return {item.name.replace("_", "-"): getattr(section, item.name) for item in fields(section)}


def keys_of(kind: type) -> list[str]:
    """Return the keys of a section class."""
    return [item.name.replace("_", "-") for item in fields(kind)]


def _checked(key: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    check: Callable[[Any], bool] = metadata["check"]
    if type(value) is not kind or not check(value):
        raise ConfigError(f"{key} = {value!r}: must be {metadata['allowed']} ({kind.__name__}).")
    return value
