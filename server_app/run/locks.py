"""Locks on files and directories, which nobody can keep beyond the end of a process."""

import fcntl


def try_to_lock(handle: int) -> bool:
    """Take the exclusive lock of an open file or directory; False where somebody else has one."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
