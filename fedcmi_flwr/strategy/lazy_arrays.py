"""Arrays by name that are in memory only while somebody uses them."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from fedcmi_flwr.types import AnyArray


class LazyArrays(Mapping[str, AnyArray]):
    """A mapping whose arrays are read, or made, anew each time somebody asks for one.

    Parameters
    ----------
    names
        The names, in order.
    read
        Returns the array of a name.

    Examples
    --------
    >>> import numpy as np
    >>> squares = LazyArrays(["2", "3"], lambda name: np.array(int(name) ** 2))
    >>> "3" in squares, squares["3"], list(squares)
    (True, array(9), ['2', '3'])
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], AnyArray]) -> None:
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> AnyArray:
        """Return the array; KeyError where there is none of that name."""
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        """Return whether there is an array of that name, without reading it."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._names)
