"""Checks jaxtyping shapes at every call of code that handles tensors, and keeps tests out of the
user's cache.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

TENSOR_MODULES = [
    f"fedcmi_flwr.{name}" for name in ("types", "data.views", "models", "methods", "evaluation")
]
install_import_hook([*TENSOR_MODULES, "client_app.train", "data_prep"], "beartype.beartype")

from data_prep.sets import av_digits  # noqa: E402 (after the hook)

collect_ignore_glob = ["example_apps/*"]  # apps of their own, which tests start as Flower does

torch.set_num_threads(1)  # two workers share the cores; runs set their own number

LONGEST = (
    "test_rehearsal.py", "test_readme.py", "test_resume_after_kill.py", "test_flower_run.py", "test_wheel.py",
    "test_devices_of_the_guide.py", "test_booted_units.py",
    "test_benchmarks.py", "test_outside.py", "test_ray_cluster.py", "test_experiments.py", "test_suite.py",
    "test_tuning.py", "test_in_browser.py", "test_bench.py", "test_prep.py", "test_two_hundred_rounds.py",
    "test_runs.py", "test_resume.py", "test_gpu_script.py", "test_hostile_floats.py", "test_chaos.py",
)  # fmt: skip
"""Files that take longest, which begin: two workers end together when what comes last is short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def av_digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return av-digits, prepared once for all tests."""
    return av_digits.prepare(tmp_path_factory.mktemp("data") / "av-digits")


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """Undo what commands that are called in the test's process do to Flower's loggers, which live
    as long as it.
    """
    loggers = [logging.getLogger(name) for name in ("flwr", "flwr.fedcmi")]
    before = [(logger.level, logger.propagate, logger.disabled) for logger in loggers]
    yield
    for logger, (level, propagate, disabled) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point the cache directory at a temporary one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDCMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
