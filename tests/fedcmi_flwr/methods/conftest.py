"""Data that the methods' federations share."""

from pathlib import Path

import numpy as np
import oracle
import pytest


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 samples of three classes and two modalities, all present."""
    present = {name: np.ones(60, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("methods") / "toy", present)
