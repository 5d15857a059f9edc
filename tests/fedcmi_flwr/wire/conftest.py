"""Messages can be made outside of Flower's processes, and thousands of warnings stay out of the
output.
"""

import logging
from collections.abc import Iterator

import pytest
from flwr.clientapp import ClientApp
from fuzzing import LINES
from malformed import unpickled

from fedcmi_flwr.simulation.local_grid import LocalGrid


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    """Give this process the identity that Flower's processes have."""
    LocalGrid(ClientApp(), [], {})


@pytest.fixture(scope="module")
def quiet_log() -> Iterator[None]:
    """Let the strategy's warnings go to LINES alone.

    At the end, nothing may have been unpickled.
    """
    logger, above = logging.getLogger("flwr.fedcmi"), logging.getLogger("flwr")
    level, logger.propagate = above.level, False
    above.setLevel(logging.CRITICAL)
    logger.setLevel(logging.WARNING)
    logger.addHandler(LINES)
    yield
    logger.removeHandler(LINES)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    above.setLevel(level)
    assert not unpickled
