"""The record by which a node says which method it applied, and with which terms."""

from flwr.app import ConfigRecord, Message

from fedcmi_flwr.methods.applied import Applied
from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.records import record

APPLIED = "applied"
"""Name of the record: "method" and, where there are any, "terms"."""
LONGEST_METHOD = 300
"""Characters of an import path."""


def applied_record(applied: Applied | None) -> dict[str, ConfigRecord]:
    """Return the record by its name; nothing where a node says nothing."""
    if applied is None:
        return {}

    found = ConfigRecord({"method": applied.method})
    if applied.terms:
        found["terms"] = list(applied.terms)

    return {APPLIED: found}


def read_applied(message: Message) -> Applied | None:
    """Reverse :func:`applied_record`; raise WireError for anything but names."""
    if APPLIED not in message.content:
        return None

    found = record(message, APPLIED, ConfigRecord)
    method, terms = found.get("method"), found.get("terms", [])
    if (
        not isinstance(method, str)
        or not isinstance(terms, list)
        or not all(isinstance(term, str) for term in terms)
    ):
        raise WireError(
            f"{APPLIED}: method = {method!r}, terms = {terms!r}; need a name and a list of names."
        )
    if not 0 < len(method) <= LONGEST_METHOD or not method.isprintable():
        raise WireError(f"{APPLIED}: method = {method[:LONGEST_METHOD]!r} is no name.")

    return Applied(method, tuple(map(str, terms)))
