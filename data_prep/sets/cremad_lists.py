"""Lists of CREMA-D's clips: which of them are for training and which for testing.

Three kinds of lines, after which anything may follow: ``<clip>,train``, ``<clip>,test``, and, as
the lists that are in use have it, ``<clip>,<EMOTION>``: then the name of the file says the
split, ``train.csv`` or ``test.csv``.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from data_prep.errors import PrepError
from data_prep.pipeline.plan import Exclusion

SPLITS = ("train", "test")
CONFLICT = "conflicting splits"
USUAL = tuple(f"{split}.csv" for split in SPLITS)


def find_lists(raw: Path, given: Sequence[Path]) -> list[Path]:
    """Return the lists to go by.

    Parameters
    ----------
    raw
        The archive.
    given
        Files; none: the usual ones, which are looked for in ``raw``.

    Returns
    -------
    Existing files, one or more.

    Raises
    ------
    FileNotFoundError
        One of them is missing.
    """
    lists = list(given) or [raw / name for name in USUAL]
    for path in lists:
        if not path.is_file():
            advice = (
                "give the lists that the field uses, train.csv and test.csv, as --list, or put "
                "them there"
            )
            raise FileNotFoundError(f"{path}: not found, expected a list of clips; {advice}.")

    return lists


def read_lists(
    paths: Sequence[Path], clips: Collection[str], not_clips: Collection[str]
) -> tuple[dict[str, str], list[Exclusion]]:
    """Return which split each listed clip is in, and what cannot be used of the lists.

    Parameters
    ----------
    paths
        Of one or more lists; empty lines, a header ``clip,...`` and lines that begin with # do
        not count.
    clips
        What the archive has.
    not_clips
        What is left out by name: passed over here.

    Returns
    -------
    Clip -> "train" or "test"; and lines that are left out: of clips that the archive does not
    have, without a split or with another emotion than the clip's name, and of a clip that an
    earlier line lists for the other split.

    Raises
    ------
    PrepError
        The lists have no clip of one of the splits.
    """
    splits: dict[str, str] = {}
    left_out: list[Exclusion] = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            cells = [cell.strip() for cell in line.split(",")]
            if not line.strip() or line.startswith("#") or (number == 1 and "_" not in cells[0]):
                continue

            clip, split = cells[0], _split_of(path, cells)
            reason = (
                f"not <clip>,train, <clip>,test, or <clip> with its emotion in {' or '.join(USUAL)}"
            )
            if split:
                reason = (
                    "listed, but not in the archive"
                    if clip not in clips and clip not in not_clips
                    else ""
                )

            if split and splits.setdefault(clip, split) != split:
                reason = f"{CONFLICT}: listed for train and test; it stays in {splits[clip]}"

            if reason:
                left_out.append(Exclusion(clip, split, f"{path.name}:{number}", reason))

    if set(splits.values()) != set(SPLITS):
        names = ", ".join(path.name for path in paths)
        raise PrepError(
            f"{names}: lists {len(splits)} clips, but not of both splits, {' and '.join(SPLITS)}."
        )

    return splits, left_out


def _split_of(path: Path, cells: Sequence[str]) -> str:
    """Return the split that a line says, by itself or by its file's name.

    Nothing for a line that says none.
    """
    clip, said = cells[0], cells[1] if len(cells) > 1 else ""
    if said in SPLITS:
        return said

    is_emotion = f"_{said}_" in clip

    return path.stem.lower() if is_emotion and path.stem.lower() in SPLITS else ""
