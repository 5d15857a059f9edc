"""What the tests of the client's half share."""

from pathlib import Path

import numpy as np
import oracle
import pytest


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 samples of three classes and two modalities; every fifth has no visual one."""
    present = {"audio": np.ones(60, dtype=bool), "visual": np.arange(60) % 5 > 0}
    return oracle.prepare(tmp_path_factory.mktemp("client") / "toy", present)
