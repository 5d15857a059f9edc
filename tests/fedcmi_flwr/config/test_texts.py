"""Assignments in one text."""

import tomllib

import pytest

from fedcmi_flwr.config.texts import read_assignments, write_assignments, write_toml
from fedcmi_flwr.types import Scalar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("depth=3", {"depth": 3}),
        ("depth = 3  mode=mean on=true", {"depth": 3, "mode": "mean", "on": True}),
        ("""mode='a b' other-mode="c d" """, {"mode": "a b", "other-mode": "c d"}),
        ("{}", {}),
        ("{depth = 0.5, mode = 'a=b c'}", {"depth": 0.5, "mode": "a=b c"}),
    ],
)
def test_assignments(text: str, expected: dict[str, object]) -> None:
    found = read_assignments(text)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("depth", "at 'depth': must be key=value"),
        ("depth=3 mode", "at 'mode': must be key=value"),
        ("depth=3 depth=4", "at 'depth=4': .* each key once"),
        ("mode='a", 'at "mode=\'a": must be key=value'),
        ("{depth = }", "not a TOML inline table"),
        ("{depth = 3} x", "not a TOML inline table"),
        ("{depth = [3]}", r"depth = \[3\]: must be a number, true or false, or a text"),
    ],
)
def test_what_is_no_assignment_is_shown(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_assignments(text)


def test_what_is_written_is_read_back() -> None:
    values = {"depth": 3, "rate": 1e-5, "on": False, "mode": "a b"}
    assert read_assignments(write_assignments(values)) == values


@pytest.mark.parametrize(
    "value",
    [
        '"',
        "'",
        """a "b" 'c' = d""",
        '{a = "b"}',
        "\\",
        "tab\t, line\n, \x7f \x01",
        "ä 音",
        "",
        1e-05,
        10**12,
        True,
    ],
)
def test_toml_holds_any_value(value: Scalar) -> None:
    assert tomllib.loads(write_toml({"key": value, "last": 1})) == {"key": value, "last": 1}
