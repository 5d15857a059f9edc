"""How large a message is."""

from flwr.app import ArrayRecord, Message


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
