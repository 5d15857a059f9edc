"""What a dataclass says of its fields: the docstring under each, read from the source."""

import ast
import inspect
import textwrap
from itertools import pairwise


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings of a class's fields.

    Python throws away a string that stands under a field; the source still has it, in an
    installed package too.

    Parameters
    ----------
    kind
        A class with annotated fields. A field that it redefines without a docstring keeps that
        of the base class.

    Returns
    -------
    Field name -> docstring on one line; fields without one are left out.

    Examples
    --------
    >>> from fedcmi_flwr.config.node import NodeConfig
    >>> field_docstrings(NodeConfig)["device"]
    "What this device computes on; left out: the run-config's."
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not object:
            found |= _own_docstrings(base)

    return found


def _own_docstrings(kind: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)

    found = {}

    for statement, following in pairwise(definition.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _string(following)
            if text:
                found[statement.target.id] = " ".join(text.split())

    return found


def _string(statement: ast.stmt) -> str | None:
    """Return the string that a statement consists of, None where it is anything else."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else None
    return None
