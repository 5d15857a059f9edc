"""Lets a benchmark run from the repository on a machine that has torch and torchvision and nothing
else.

jaxtyping, which the package's signatures are written in, is checked in the tests alone; where it
is missing, stand-ins whose subscription gives the array's type take its place. Flower's records
and messages are named by what is imported, and none is made or read in these benchmarks; where
Flower is missing, empty classes take their place.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


class _Unchecked:
    def __class_getitem__(cls, item: tuple[type, str]) -> type:
        return item[0]


def make_importable() -> None:
    """Make the package importable; call it before the first import of the package."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    if find_spec("jaxtyping") is None:
        stand_in = ModuleType("jaxtyping")
        for name in ("Bool", "Float", "Int", "Shaped"):
            setattr(stand_in, name, _Unchecked)
        sys.modules["jaxtyping"] = stand_in
    if find_spec("flwr") is None:
        flower, records = ModuleType("flwr"), ModuleType("flwr.app")
        for name in (
            "Array",
            "ArrayRecord",
            "ConfigRecord",
            "Context",
            "Message",
            "MetricRecord",
            "RecordDict",
        ):
            setattr(records, name, type(name, (), {}))
        sys.modules |= {"flwr": flower, "flwr.app": records}
