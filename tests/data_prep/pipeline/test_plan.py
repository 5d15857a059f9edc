"""data_prep.pipeline.plan: what is asked for is checked before anything is decoded."""

import json

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.pipeline.plan import Plan, Planned, Stream, select_modalities, tool_versions


def _sample(name: str, split: str, *modalities: str) -> Planned:
    return Planned(
        name, 0, "g", split, dict.fromkeys(modalities, 1), dict.fromkeys(modalities, "a file")
    )


def _plan(*samples: Planned) -> Plan:
    stream = Stream("sound", "series", (2, 5), "float16", np.asarray, {})
    return Plan(("no", "yes"), [stream], samples)


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([_sample("a", "train", "sound")] * 2, "split 'train': two samples are called 'a'"),
        ([_sample("a", "train")], r"sample 'a': has none of \['sound'\]"),
        ([], "no samples are left"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(samples: list[Planned], problem: str) -> None:
    with pytest.raises(PrepError, match=problem):
        _plan(*samples).check()


def test_one_id_may_stand_in_two_splits() -> None:
    _plan(_sample("a", "train", "sound"), _sample("a", "test", "sound")).check()


def test_a_row_of_ten_halves_takes_twenty_bytes() -> None:
    assert _plan().streams[0].row_bytes == 20


def test_modalities_come_in_stored_order() -> None:
    assert select_modalities(("a", "b", "c"), None) == ("a", "b", "c")
    assert select_modalities(("a", "b", "c"), ["c", "a"]) == ("a", "c")


@pytest.mark.parametrize("wanted", [[], ["d"], ["a", "d"]])
def test_modalities_must_exist(wanted: list[str]) -> None:
    with pytest.raises(PrepError, match="must be one or more of a, b, c"):
        select_modalities(("a", "b", "c"), wanted)


def test_versions_are_those_installed() -> None:
    versions = tool_versions("numpy", "scikit-learn")
    assert versions["numpy"] == np.__version__
    assert list(versions) == ["numpy", "scikit-learn"]
    assert json.dumps(versions)
