"""Docstrings of fields, from the source of this file."""

from dataclasses import dataclass, field

from fedcmi_flwr.config.docstrings import field_docstrings


@dataclass
class Base:
    """A base class."""

    plain: int
    """The first."""
    unsaid: int
    folded: str = "a"
    """Two lines
    make one."""
    again: float = field(default=1.0)
    """Of the base class."""
    kept: float = 1.0
    """Said once."""


@dataclass
class Derived(Base):
    """Redefines two fields, one of them with a docstring."""

    again: float = 2.0
    """Of the derived class."""
    kept: float = 2.0

    def method(self) -> None:
        """Not a field."""


def test_docstrings_under_fields() -> None:
    assert field_docstrings(Base) == {
        "plain": "The first.",
        "folded": "Two lines make one.",
        "again": "Of the base class.",
        "kept": "Said once.",
    }


def test_a_derived_class_says_what_it_says_anew() -> None:
    assert field_docstrings(Derived) == {**field_docstrings(Base), "again": "Of the derived class."}
