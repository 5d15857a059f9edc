"""A server of a deployment whose proxy and registrar run.

Only the SuperLink's list of nodes is a stand-in.
"""

import threading
from collections.abc import Iterator

import pytest
from sites import FakeControl, Proxied, proxied

from server_app.deploy.registrar import Registrar


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """Return a site whose proxy and registrar run, with eight devices that have not joined."""
    with (
        pytest.MonkeyPatch.context() as patch,
        proxied(tmp_path_factory.mktemp("site"), nodes=8) as started,
    ):
        FakeControl.install(patch)
        registrar = Registrar(started.site)
        threading.Thread(target=registrar.serve_forever, daemon=True).start()
        yield started
        registrar.shutdown()
        registrar.server_close()
