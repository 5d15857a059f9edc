"""What a service tells systemd of itself."""

import os
import socket


def notify(state: str) -> None:
    """Tell systemd how the service is; without systemd nobody listens.

    Parameters
    ----------
    state
        As ``sd_notify`` takes it.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(
                state.encode(), "\0" + address[1:] if address.startswith("@") else address
            )
