"""The best round's model by validation data.

Kept beside the run until its end, and when to train no longer.

Below ``best/`` lies the model of each round that was better than all before it, as far as a
checkpoint may need it: a run that goes on from round 4 knows nothing of a better round 5, but
still needs the best one up to 4.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcmi_flwr.config.selection import OFF, SelectionConfig
from fedcmi_flwr.models.file import MODEL_FILE, load_model

DIRECTORY = "best"
"""Below the run directory."""
VALIDATION = "validation"
"""Key of a round's record: the figures that the best round is chosen by."""
logger = logging.getLogger("flwr.fedcmi")


class EnoughRoundsError(RuntimeError):
    """The end of training before its last round; the text says why."""


class BestModel:
    """The best round so far.

    Parameters
    ----------
    run_dir
        The run's directory.
    settings
        By what it is chosen, and the patience.
    """

    def __init__(self, run_dir: Path, settings: SelectionConfig) -> None:
        self.directory = run_dir / DIRECTORY
        self.settings = settings
        self.enabled = settings.keep_best != OFF
        self.server_round = 0
        """The best one; 0: none yet, since round 0's weights are random."""
        self.value = float("-inf")
        """Its figure."""
        self.last_round = 0

    @property
    def path(self) -> Path:
        """The best model."""
        return self._path(self.server_round)

    @classmethod
    def take_back(cls, run_dir: Path) -> None:
        """Put the best model, which a finished run has as its own, where a run that goes on
        has it.
        """
        model = run_dir / MODEL_FILE
        settings = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        best = cls(run_dir, SelectionConfig(settings.get("keep-best", OFF)))
        if best.enabled and model.is_file():
            _, metadata = load_model(model)
            best.directory.mkdir(exist_ok=True)
            shutil.copyfile(model, best._path(int(metadata["notes"]["round"])))

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take over what a run that goes on has behind it, and forget models of rounds that are
        done again.
        """
        best = best_by_validation(records, self.settings.keep_best) if self.enabled else None
        if best is not None:
            self.server_round, self.value = best["round"], best[VALIDATION][self.settings.keep_best]

        self.last_round = records[-1]["round"]
        for number, path in self._stored():
            if number > self.last_round:
                path.unlink()

    def note(
        self, server_round: int, figures: Mapping[str, float], save: Callable[[Path], None]
    ) -> None:
        """Keep a round's model if it is the best one.

        Parameters
        ----------
        server_round
            Counted from 1.
        figures
            Of its model.
        save
            Writes the model to a path.
        """
        self.last_round = server_round
        value = figures[self.settings.keep_best]
        if value > self.value:
            self.directory.mkdir(exist_ok=True)
            save(self._path(server_round))
            self.server_round, self.value = server_round, value

    def forget_before(self, oldest: int) -> None:
        """Remove models that no run needs which goes on from this round or a later one."""
        for _, path in [(number, path) for number, path in self._stored() if number <= oldest][:-1]:
            path.unlink()

    def why_over(self) -> str:
        """Return why no round should follow; empty where one may."""
        waited = self.last_round - self.server_round
        if self.settings.patience == 0 or waited < self.settings.patience:
            return ""

        figure = f"{self.settings.keep_best} {self.value:.1%} on validation data"

        return (
            f"no better round than {self.server_round} ({figure}) in the last {waited} (patience)"
        )

    def clear(self) -> None:
        """Remove what only an unfinished run needs."""
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def _path(self, server_round: int) -> Path:
        return self.directory / f"round-{server_round:06}.safetensors"

    def _stored(self) -> list[tuple[int, Path]]:
        """Return the rounds whose models are there, in order, with their paths."""
        paths = sorted(self.directory.glob("round-" + "[0-9]" * 6 + ".safetensors"))
        return [(int(path.stem.removeprefix("round-")), path) for path in paths]


def best_by_validation(
    records: Sequence[Mapping[str, Any]], metric: str
) -> Mapping[str, Any] | None:
    """Return the record of the best round, the first of equal ones.

    None where no round was measured.

    Parameters
    ----------
    records
        Of the rounds.
    metric
        One of ``config.selection.METRICS``.

    Returns
    -------
    The record.
    """
    measured = [
        record
        for record in records
        if record["round"] > 0 and record.get(VALIDATION, {}).get(metric) is not None
    ]
    return max(measured, key=lambda record: float(record[VALIDATION][metric]), default=None)
