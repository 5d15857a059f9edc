"""How large a message is, and how large its reply may be."""

from collections.abc import Mapping

from flwr.app import ArrayRecord, Message

from fedcmi_flwr.types import AnyArray
from fedcmi_flwr.wire.packing import WireError

SIZE_RATIO = 4
"""A reply may have so many times the bytes of the arrays that were sent: methods add arrays."""
ALWAYS_READ, BYTES_OF_NAME, BYTES_OF_CLASS = 2**20, 512, 1024
"""Bytes of texts and numbers that a reply may have: so many, and so many for each array and class.
They are bounded apart from the arrays, since they take dozens of times their bytes when read."""


def content_bytes(message: Message, arrays_alone: bool = False) -> int:
    """Return the size of a message's content in bytes, without transport.

    Flower's own ``count_bytes`` raises on a ConfigRecord that holds an empty string.

    Parameters
    ----------
    message
        Any message; one that holds an error has no content, which is 0 bytes.
    arrays_alone
        Count the data of arrays, not what else is there: texts and numbers, whose length may say
        something of a node.

    Returns
    -------
    Bytes of array data and of the other records, serialised.
    """
    if not message.has_content():
        return 0

    # not content.array_records, which would tie the message up in a cycle of references
    records = list(message.content.values())
    arrays = [each for each in records if isinstance(each, ArrayRecord)]
    size = sum(each.count_bytes() for each in arrays)
    if arrays_alone:
        return size

    others = [each for each in records if not isinstance(each, ArrayRecord)]

    return size + sum(len(each.deflate()) for each in others)


def check_size(content: Message, sent: Mapping[str, AnyArray], num_classes: int) -> None:
    """Refuse what is far larger than what was asked, before it is read, which takes many times its
    size.

    Parameters
    ----------
    content
        The reply.
    sent
        Name -> array of what the node was sent, as far as it is to send it back.
    num_classes
        C; a reply may say something of each.

    Raises
    ------
    WireError
        It is too large.
    """
    asked = sum(array.nbytes for array in sent.values())
    size = content_bytes(content)
    texts = size - content_bytes(content, arrays_alone=True)
    most = ALWAYS_READ + BYTES_OF_NAME * len(sent) + BYTES_OF_CLASS * num_classes
    largest = SIZE_RATIO * asked + most

    if size > largest:
        raise WireError(
            f"it has {size} bytes; of a node that was sent arrays of {asked}, at most {largest} "
            "are read."
        )
    if texts > most:
        raise WireError(f"it has {texts} bytes of texts and numbers, at most {most} are read.")
