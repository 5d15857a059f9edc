"""The model that teaches in a round, where it is not the one that is trained.

It travels beside the weights: in two records of its own; to a node that speaks "plain" as bytes
in the config, since Flower's mods want a single ArrayRecord.
"""

from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.packing import WireError, pack, unpack
from fedcmi_flwr.wire.records import record

TEACHER, TEACHER_LAYOUT = "teacher", "teacher-layout"
"""Names of the two records."""
PLAIN_TEACHER = "plain-teacher"
"""Key of a task's config: name -> array as the bytes of a safetensors file."""
PackedTeacher = Mapping[str, ArrayRecord | ConfigRecord] | bytes
"""The records, or the bytes."""


def pack_teacher(
    arrays: Mapping[str, AnyArray],
    groups: Mapping[str, Sequence[str]],
    wire_dtype: str,
    plain: bool,
) -> PackedTeacher:
    """Pack the groups of a model that teaches.

    Parameters
    ----------
    arrays
        Name -> array.
    groups
        Group -> names, of the modalities that the node owns.
    wire_dtype
        As for :func:`packing.pack`.
    plain
        Whether for a node that speaks "plain"; its arrays travel as they are.

    Returns
    -------
    What :func:`task.task_message` takes.

    Raises
    ------
    WireError
        As :func:`packing.pack` raises it.
    """
    if plain:
        return save({name: arrays[name] for names in groups.values() for name in names})

    packed, layout = pack(arrays, groups, wire_dtype)
    return {TEACHER: packed, TEACHER_LAYOUT: layout}


def teacher_arrays(
    message: Message,
    plain: object,
    sent: Mapping[str, AnyArray],
) -> dict[str, AnyArray]:
    """Reverse :func:`pack_teacher` on a node.

    Parameters
    ----------
    message
        The task.
    plain
        What its config had under ``PLAIN_TEACHER``; None: nothing.
    sent
        Name -> array of the model to train.

    Returns
    -------
    Name -> array; empty where the task has no such model.

    Raises
    ------
    WireError
        It is not like the model to train.
    """
    if plain is not None:
        arrays = _from_bytes(plain)
    elif TEACHER in message.content or TEACHER_LAYOUT in message.content:
        packed = record(message, TEACHER, ArrayRecord)
        arrays, _ = unpack(packed, record(message, TEACHER_LAYOUT, ConfigRecord))
    else:
        return {}

    for name, array in arrays.items():
        if name not in sent or (sent[name].shape, sent[name].dtype) != (array.shape, array.dtype):
            raise WireError(
                f"teacher: {name!r}, {array.dtype} {list(array.shape)}, is no array of the model "
                "to train; server and node must run the same version of the project."
            )

    return arrays


def _from_bytes(plain: object) -> dict[str, AnyArray]:
    if not isinstance(plain, bytes):
        raise WireError(f"config: {PLAIN_TEACHER} is {type(plain).__name__}, need bytes.")

    try:
        return load(plain)
    except SafetensorError as error:
        raise WireError(f"config: {PLAIN_TEACHER} is no safetensors file: {error}.") from error
