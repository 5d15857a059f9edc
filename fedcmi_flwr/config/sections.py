"""Sections of a run configuration that no other class already holds.

The others stand with their subjects: ``Sampling``, ``Tolerance`` and ``Guards`` in
``strategy/``, ``ServerOptimizer``, ``RobustAggregation`` and ``Privacy`` in ``aggregation/``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fedcmi_flwr.config.fields import (
    ConfigError,
    Settings,
    choice,
    flag,
    key_fields,
    key_of,
    number,
    text,
)
from fedcmi_flwr.config.names import COMPRESSIONS, INITIALIZATIONS, WIRE_DTYPES
from fedcmi_flwr.types import Scalar

OWNERSHIPS = ("multimodal-ratio", "random-subsets")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "auto")
NODE_MEMORIES = ("context", "run-dir")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("linear", "cosine")
NODE_TESTS = ("shared", "own-distribution")

Section = TypeVar("Section", bound=Settings)


@dataclass(frozen=True)
class DataConfig(Settings):
    """What is trained on, and how it is dealt to the nodes."""

    data: str = text("the name of a built-in data set or the path of a prepared directory")
    """"av-digits", or the absolute path of a prepared directory."""
    data_set: str = text("the name of a data set, as dataset.json has it, or empty")
    """What the prepared directory must hold ("cremad", "manifest"), which a recipe says so that
    it never trains on something else; empty: anything."""
    modalities: str = text("names of stored modalities joined by '+', or empty")
    """What the federation trains on, "audio" or "audio+visual"; empty: every modality that is
    stored. Nodes that own none of them take no part."""
    partition: str = choice("iid", "dirichlet", "natural")
    """Partitioner of flwr-datasets: IID, balanced Dirichlet over labels, or by the samples'
    natural groups."""
    dirichlet_alpha: float = number(0, above=True)
    """Concentration of the Dirichlet partitioner; smaller is more skewed."""
    min_partition_size: int = number(2)
    """Fewest training samples a partition may have."""
    multimodal_ratio: float = number(0, 1)
    """Share of the nodes that keep every modality; the rest own one each, dealt evenly."""
    ownership: str = choice(*OWNERSHIPS)
    """How modalities are dealt to simulated nodes: as ``multimodal_ratio`` says, or to each node
    a non-empty subset of them, all subsets being equally likely."""
    missing_share: float = number(0, 1, below=True)
    """Of a simulated node's training samples with two or more of the modalities it trains on,
    the share that loses one of them, drawn by seed and partition."""
    validation_share: float = number(0, 0.5)
    """Share of the training split that is cut off for the server to evaluate on instead of the
    test split; in simulations only. Whole groups (person, device) are cut off where the data
    has two or more, with shares of each class as near to this one as groups allow, and one
    group at least; else samples, class by class."""
    calibration_share: float = number(0, 0.5)
    """Share of what is left that is cut off in the same way, for the server to choose at the end
    of the run how the model decides (``evaluation/calibration.py``); in simulations only. 0
    where the data has a split of its own for that."""


@dataclass(frozen=True)
class ModelConfig(Settings):
    """What is trained."""

    encoder: str = text("an encoder's name, or 'modality=name modality=name'")
    """One encoder for all modalities, or one per modality: "audio=resnet18 visual=small-cnn". A
    name is built in, an entry point of an installed package, "package.module:Name", or
    "auto:NAME_OR_DIR" of a Hugging Face model."""
    embedding_dim: int = number(1)
    """D, how many numbers an embedding has: what encoders and projectors give, and fusion heads
    take."""
    projector: str = choice("linear", "mlp")
    """What self- and infiltration projectors are: one linear layer ("linear"), or three with
    ReLU between them ("mlp")."""
    fusion: str = text("the name of a fusion head")
    """Head that predicts from all modalities together: built in, an entry point of an installed
    package, or "package.module:Name"."""
    initialization: str = choice(*INITIALIZATIONS)
    """How the server initialises what is not pretrained: as torch does ("torch"), or as the
    paper's authors do."""
    pretrained: str = text("'modality=DIR modality=DIR', or empty")
    """Where the weights of encoders' trunks come from: "text=/weights/bert
    visual=/weights/resnet18"."""
    start_from: str = text("the path of a model file or of a run directory, or empty")
    """A trained model whose weights the run begins with, of the modalities and classes that both
    have; the others begin as ``initialization`` says."""
    freeze: str = text("names of modalities joined by '+', or empty")
    """Modalities whose encoder's trunk is neither trained nor sent; every node has it in its own
    directory."""
    adapter: str = text("'lora:r=8', or 'modality=lora:r=8' for each, or empty", default="")
    """What is trained and sent of the trunks of ``auto:`` encoders in place of their weights:
    LoRA of a rank, with ``alpha`` (twice the rank), ``dropout`` (0) and ``targets`` (layers
    of queries and values) where told. Every node has the trunk in its own directory, as with
    ``freeze``."""


@dataclass(frozen=True)
class ViewConfig(Settings):
    """What encoders see of image and frames modalities; travels to the nodes with every message."""

    augment: str = text("names of image and frames modalities joined by '+', or empty")
    """Modalities that training crops and mirrors at random, "visual"."""
    view_size: int = number(0)
    """Height and width of the view in pixels; 0: as stored."""
    view_frames: int = number(0)
    """Frames of the view: training draws one of each of this many equal segments, evaluation
    takes the middle ones; 0: all that are stored."""


@dataclass(frozen=True)
class FederationConfig(Settings):
    """How many rounds there are, how long one may take, and what weights travel in."""

    num_server_rounds: int = number(1)
    """Rounds of training; one that fails counts."""
    round_timeout: float = number(0, above=True)
    """Seconds to wait for the replies of a round before it goes on without the missing ones."""
    wire_dtype: str = choice(*WIRE_DTYPES)
    """What float32 weights travel in, both ways; "float16" halves the bytes and keeps 11 of 24
    significant bits. What a method sends besides weights is not narrowed."""
    update_compression: str = choice(*COMPRESSIONS)
    """What nodes send instead of weights: each update in 8 bits a number, with a scale for each
    channel ("int8"), or its largest numbers alone ("top-k"); what is left out, a node adds to
    its next update. Nodes of apps that speak Flower's plain way send weights all the same."""
    top_k_share: float = number(0, 1, above=True)
    """Of an update's numbers, those that "top-k" sends."""


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What nodes evaluate on their own test samples, with ``fraction_evaluate`` above 0."""

    node_test: str = choice(*NODE_TESTS)
    """What a simulated node evaluates on: every n-th test sample, so that all nodes together
    have each once ("shared"), or test samples drawn by the class shares of its training
    samples ("own-distribution"), which several nodes may have. A device evaluates on the test
    split of its own directory."""
    personal_epochs: int = number(0)
    """Passes over its training samples for which a node trains the heads of the received model,
    to evaluate the result beside the received model; 0: off. ``personal_models`` says what
    becomes of it."""
    personal_models: str = choice("discard", "keep")
    """What becomes of the model with a node's own heads: nothing, or the node keeps it ("keep"),
    as a model file that `fedcmi predict` reads: a device below the directory that its
    node-config names under ``personal``, a simulated node below the run's ``personal``. It
    never leaves the node."""


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Local training; travels to the nodes with every message."""

    seed: int = number(0)
    """Seed of everything random: with purpose, round and partition it decides every draw."""
    num_server_rounds: int = number(1)
    """The same key as in FederationConfig: where the learning rate's decay ends."""
    local_epochs: int = number(1)
    """Passes over the node's samples in a round."""
    batch_size: int = number(2)
    """Samples in a mini-batch."""
    lr: float = number(0, above=True)
    """Learning rate of the nodes' optimiser after warm-up, until ``lr_decay_start``."""
    lr_min: float = number(0)
    """Learning rate of the last round, where it decays."""
    lr_decay_start: int = number(-1)
    """Last round, counted from 1, at the full learning rate; -1: no decay."""
    momentum: float = number(0, 1)
    """Momentum of the nodes' SGD: the share of the last step that goes into the next. AdamW does
    not look at it."""
    weight_decay: float = number(0)
    """Weight decay: SGD adds this many times the weight to its gradient; AdamW shrinks weights
    by this share times the learning rate before each step."""
    optimizer: str = choice(*OPTIMIZERS, default="sgd")
    """The nodes' optimiser, torch's: SGD with momentum, or AdamW with betas 0.9 and 0.999. What
    it keeps (momentum, moments, step counts) begins at zero in each round and never leaves
    the node. AdamW wants a smaller ``lr``, such as 0.001."""
    lr_warmup_rounds: int = number(0, default=0)
    """First rounds, in which the learning rate rises: round t of W trains at t / (W + 1) of
    ``lr``; 0: no warm-up."""
    lr_schedule: str = choice(*SCHEDULES, default="linear")
    """How the learning rate falls from ``lr_decay_start`` to ``lr_min`` in the last round: on a
    line or on half a cosine."""
    accumulate_batches: int = number(1, default=1)
    """Batches whose gradients make one step: a batch this many times as large in the memory of
    one, except that batch norm sees each alone. An epoch's last step takes what is left."""

    def __post_init__(self) -> None:
        """Check each key, and keys against each other."""
        super().__post_init__()
        if self.lr_min > self.lr:
            raise ConfigError(f"lr-min = {self.lr_min}: must not exceed lr = {self.lr}.")
        if self.lr_schedule == "cosine" and self.lr_decay_start < 0:
            raise ConfigError(
                "lr-schedule = 'cosine': nothing decays while lr-decay-start is -1; set it to "
                f"the last round at the full learning rate ({self.lr_warmup_rounds}: right after "
                "warm-up)."
            )
        if 0 <= self.lr_decay_start < self.lr_warmup_rounds:
            raise ConfigError(
                f"lr-decay-start = {self.lr_decay_start}: the learning rate rises until round "
                f"{self.lr_warmup_rounds} (lr-warmup-rounds); start the decay there or later."
            )

    def learning_rate(self, server_round: int) -> float:
        """Return the learning rate of a round.

        Rising in warm-up, constant, then down to ``lr_min`` in the last round.

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
        if server_round <= self.lr_warmup_rounds:
            return self.lr * server_round / (self.lr_warmup_rounds + 1)
        if start < 0 or server_round <= start or end <= start:
            return self.lr

        if self.lr_schedule == "cosine":
            passed = (min(server_round, end) - start) / (end - start)
            return self.lr_min + (self.lr - self.lr_min) * (1 + math.cos(math.pi * passed)) / 2

        return self.lr + (self.lr_min - self.lr) * (min(server_round, end) - start) / (end - start)


@dataclass(frozen=True)
class MachineConfig(Settings):
    """How a process uses the machine it runs on."""

    device: str = choice(*DEVICES)
    """"auto" takes a GPU when the process sees one."""
    precision: str = choice(*PRECISIONS)
    """What nodes' encoders compute in: float32, bfloat16 ("bf16"; weights, heads and losses stay
    float32), or bfloat16 for large encoders on a GPU or CPU that has it ("auto")."""
    torch_threads: int = number(1, 1024)
    """CPU threads of torch in each process; another number may change the last bits of the
    weights."""
    features_cache: str = choice("auto", "off", default="auto")
    """Whether a node keeps what a frozen trunk makes of each training sample, in its cache
    directory, and trains on that, where neither crops nor drawn frames change what the trunk
    sees ("auto"): it runs once a sample then."""


@dataclass(frozen=True)
class CheckpointConfig(Settings):
    """What a run leaves so that it can go on.

    After its processes have died, or with more rounds after its end.
    """

    checkpoint_every: int = number(0)
    """Rounds between two checkpoints; 0: none. One costs the time and space of writing the model
    (twice where it is averaged), the method's state and the server optimiser's moments to the
    disk."""
    checkpoint_keep: int = number(1)
    """Newest checkpoints that are kept; the one before the newest always is, since the next
    round shows whether nodes can train on the newest."""
    node_memory: str = choice(*NODE_MEMORIES)
    """Where nodes keep what a method remembers between their turns: in Flower's context
    ("context"), which lives as long as the run and the SuperNode; or below the run directory
    ("run-dir"), for simulations: ``fedcmi run`` decides it by ``checkpoint_every``."""
    resume: bool = flag()
    """Go on from the newest checkpoint of ``run-dir``; all other keys must be those of the run."""

    def __post_init__(self) -> None:
        """Check each key, and keys against each other."""
        super().__post_init__()
        if self.node_memory == "run-dir" and self.checkpoint_every == 0:
            raise ConfigError(
                "node-memory = 'run-dir': serves checkpoints only; set checkpoint-every or "
                "'context'."
            )


@dataclass(frozen=True)
class TrackingConfig(Settings):
    """Where the server shows a run while it goes on, besides its run directory."""

    track: str = text("names of trackers joined by '+', or empty")
    """"tensorboard", "mlflow" and "wandb", each with its package; a tracker of another package
    by its entry point or as "package.module:Name". None of them can end a run."""


def split_trackers(text: str) -> tuple[str, ...]:
    """Return the names that the ``track`` key joins, each once."""
    return tuple(dict.fromkeys(text.split("+"))) if text else ()


def read_section(kind: type[Section], raw: Mapping[str, Any]) -> Section:
    """Build one section from the keys it needs; other keys are not looked at.

    Parameters
    ----------
    kind
        Any settings.
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
    items = key_fields(kind)
    for item in items:
        if key_of(item) not in raw:
            raise ConfigError(f"key {key_of(item)!r} is missing.")

    return kind(**{item.name: raw[key_of(item)] for item in items})


def section_items(section: Settings) -> dict[str, Scalar]:
    """Return a section's keys and values, the reverse of :func:`read_section`."""
    return {key_of(item): getattr(section, item.name) for item in key_fields(type(section))}


def keys_of(kind: type[Settings]) -> list[str]:
    """Return the keys of a section class."""
    return [key_of(item) for item in key_fields(kind)]
