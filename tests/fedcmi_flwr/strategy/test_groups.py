"""Parameter groups by prefix."""

import pytest

from fedcmi_flwr.strategy.groups import group_names


def test_groups_need_prefixes_that_tell_names_apart() -> None:
    names = ("ear.w", "ear2.w", "head.w")
    assert group_names(names, {"a": ["ear."], "b": ["ear2."]}) == {
        "a": ("ear.w",),
        "b": ("ear2.w",),
        "shared": ("head.w",),
    }
    with pytest.raises(ValueError, match=r"'ear2.w' belongs to the groups \['a', 'b'\]"):
        group_names(names, {"a": ["ear"], "b": ["ear2."]})
    with pytest.raises(ValueError, match=r"group 'c': no parameter starts with \['eye.'\]"):
        group_names(names, {"a": ["ear"], "c": ["eye."]})
