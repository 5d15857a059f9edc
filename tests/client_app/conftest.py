"""Federations on av-digits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import digits
import pytest


@pytest.fixture
def federate(tmp_path: Path, av_digits_dir: Path) -> Callable[..., digits.Parts]:
    """Return a maker of a federation on av-digits with given node-configs, with its initial
    arrays.
    """
    return partial(digits.federate, tmp_path / "run", av_digits_dir)
