"""What a node is told about itself: the only reader of node-config."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fedcmi_flwr.config.fields import LARGEST, ConfigError
from fedcmi_flwr.config.sections import DEVICES
from fedcmi_flwr.suggestions import did_you_mean


def _key(allowed: str) -> Any:  # noqa: ANN401
    return field(default=None, metadata={"allowed": allowed})


LONGEST_NAME = 100
"""Characters of a device's name."""


@dataclass(frozen=True)
class NodeConfig:
    """What a node is told about itself.

    By Ray in a simulation, by ``--node-config`` on a device.
    """

    partition_id: int = field(metadata={"allowed": "an integer from 0"})
    """Number of the node; nodes are sampled by it, so it must differ between nodes. The only key
    that is needed."""
    num_partitions: int | None = _key("an integer above partition-id")
    """Parts that the data is dealt into, as in a simulation; left out: all of the node's data is
    its own."""
    modalities: tuple[str, ...] | None = _key("different names joined by '+'")
    """Modalities that the device owns, "audio+visual"; left out: decided by ``ownership``."""
    data: str | None = _key("the path of a prepared directory")
    """The device's prepared directory; left out: the run-config's."""
    device: str | None = _key(f"one of {', '.join(DEVICES)}")
    """What this device computes on; left out: the run-config's."""
    pretrained: str = field(default="", metadata={"allowed": "'modality=DIR modality=DIR'"})
    """Where this device has the weights of trunks that are frozen or have adapters, for the
    modalities that it names; of the others the run-config's."""
    local_epochs: int | None = _key("an integer from 1")
    """Passes over the device's samples in a round; left out: the run-config's."""
    time_budget: float | None = _key("a number from 0")
    """Seconds of training after which the device ends a round with the step that it is in, 0: no
    end; left out: the run-config's."""
    personal: str | None = _key("the path of a directory")
    """Where the device keeps the model with its own heads, under ``personal-models = "keep"``."""
    name: str = field(default="", metadata={"allowed": "up to 100 printable characters"})
    """What people call the device, "edge-2": in the server's words about its replies."""


def read_node_config(raw: Mapping[str, Any]) -> NodeConfig:
    """Check a node-config: partition-id is needed, the other keys of NodeConfig are not.

    Parameters
    ----------
    raw
        Flower's ``context.node_config``.

    Returns
    -------
    The node's configuration, checked.

    Raises
    ------
    ConfigError
        An unknown or missing key, or a value out of range.
    """
    known = [item.name.replace("_", "-") for item in fields(NodeConfig)]
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r} in the node-config; known are {', '.join(known)}."
            f"{did_you_mean(unknown[0], known)}"
        )

    partition, parts = raw.get("partition-id"), raw.get("num-partitions")
    if type(partition) is not int or partition < 0:
        raise ConfigError(f"node-config partition-id = {partition!r}: must be an integer from 0.")
    if parts is not None and (type(parts) is not int or partition >= parts):
        raise ConfigError(
            f"node-config num-partitions = {parts!r}: must be an integer above partition-id "
            f"{partition}."
        )

    names = raw.get("modalities")
    modalities = tuple(str(names).split("+")) if names is not None else None
    if modalities is not None and ("" in modalities or len(set(modalities)) < len(modalities)):
        raise ConfigError(
            f"node-config modalities = {names!r}: must be different names joined by '+'."
        )
    if modalities is None and parts is None:
        raise ConfigError(
            "node-config: without num-partitions the node must say its modalities ('audio+visual')."
        )

    device = raw.get("device")
    if device not in (None, *DEVICES):
        raise ConfigError(f"node-config device = {device!r}: must be one of {', '.join(DEVICES)}.")

    data, pretrained = str(raw["data"]) if "data" in raw else None, str(raw.get("pretrained", ""))
    personal = str(raw["personal"]) if "personal" in raw else None
    epochs, seconds = _read_work(raw)

    return NodeConfig(
        partition,
        parts,
        modalities,
        data,
        device,
        pretrained,
        epochs,
        seconds,
        personal,
        _read_name(raw),
    )


def _read_work(raw: Mapping[str, Any]) -> tuple[int | None, float | None]:
    epochs, seconds = raw.get("local-epochs"), raw.get("time-budget")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise ConfigError(f"node-config local-epochs = {epochs!r}: must be an integer from 1.")
    if seconds is not None and (
        type(seconds) not in (int, float) or not 0 <= seconds < LARGEST[float]
    ):
        raise ConfigError(f"node-config time-budget = {seconds!r}: must be a number from 0.")

    return epochs, seconds


def _read_name(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("name", ""))
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"node-config name = {name!r}: must be up to {LONGEST_NAME} printable characters."
        )

    return name
