"""Where a round's replies wait for each other.

The first ones in memory, then all of them in a temporary file.

What replies become is decided in the order of the partition ids, and may need all of them:
weights that one node names are bound by the others', medians are over all. So each is put away
as it arrives, and read again array by array.
"""

import tempfile
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from fedcmi_flwr.strategy.lazy_arrays import LazyArrays
from fedcmi_flwr.types import AnyArray

BYTES_IN_MEMORY = 2**28
"""More than these of a round's replies go to the disk, where Python's ``tempfile`` has its
directory (TMPDIR)."""


class ReplyStore:
    """A file without a name, which is gone when the store, a context manager, is left or the
    process dies.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> "ReplyStore":
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget all arrays."""
        self._file.close()

    def put(self, arrays: Mapping[str, AnyArray]) -> LazyArrays:
        """Put arrays away.

        Parameters
        ----------
        arrays
            Name -> array; its memory is not needed any more.

        Returns
        -------
        The same, read again at each access while the store is open.

        Raises
        ------
        OSError
            The disk is full, or the temporary directory cannot be written.
        """
        stored = {}
        try:
            self._file.seek(self._end)
            for name, array in arrays.items():
                stored[name] = (self._end, array.dtype, array.shape)
                self._file.write(_as_bytes(np.ascontiguousarray(array)).data)
                self._end += array.nbytes
        except OSError as error:
            raise OSError(
                error.errno,
                f"the round's replies, {self._end / 1e9:.1f} GB so far, cannot be kept in "
                f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a directory with room "
                "for all replies of a round",
            ) from error

        def read(name: str) -> AnyArray:
            offset, dtype, shape = stored[name]
            array = np.empty(shape, dtype)
            self._file.seek(offset)
            if self._file.readinto(_as_bytes(array).data) != array.nbytes:
                raise OSError(
                    f"the temporary file of the round's replies was cut short at {name!r}."
                )

            return array

        return LazyArrays(stored, read)


def _as_bytes(array: AnyArray) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return array.reshape(-1).view(np.uint8)
