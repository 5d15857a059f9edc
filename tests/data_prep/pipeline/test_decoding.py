"""data_prep.pipeline.decoding: what a decoder may return, and what becomes of the rest."""

from pathlib import Path

import pytest
from toy_archive import prepare_toys, write_archive

from data_prep.errors import PrepError
from data_prep.pipeline.execution import DecodingProgress, Execution


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_archive(tmp_path / "raw", 50)
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("content", "words"),
    [("bug", r"touch of sample '003' \(003\.touch\): the decoder failed with KeyError: 'no such thing'"),
     ("flat", r"touch of sample '003': shape \(3,\), planned was \(1, 2\)")],
)  # fmt: skip
def test_a_faulty_decoder_ends_the_preparation(
    raw: Path, tmp_path: Path, content: str, words: str
) -> None:
    (raw / "003.touch").write_text(content)
    with pytest.raises(PrepError, match=words):
        prepare_toys(raw, tmp_path / "out", Execution(2, max_bad=50))
    assert not (tmp_path / "out").exists()


def test_values_too_large_for_the_stored_type_are_unusable(raw: Path, tmp_path: Path) -> None:
    (raw / "003.touch").write_text("1e9")
    with pytest.raises(PrepError, match=r"003\.touch: touch is not finite as float16"):
        prepare_toys(raw, tmp_path / "out")


def test_progress_is_told_before_the_first_block_and_after_each(raw: Path, tmp_path: Path) -> None:
    """49 of 50 samples are planned, 8 a block."""
    steps: list[DecodingProgress] = []
    prepare_toys(raw, tmp_path / "out", Execution(show=steps.append))
    assert [step.done for step in steps] == [0, 8, 16, 24, 32, 40, 48, 49]
    assert {(step.total, step.resumed) for step in steps} == {(49, 0)}
