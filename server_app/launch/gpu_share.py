"""How many simulated clients share a GPU.

What one needs is measured before the run, on one of its nodes.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp

from data_prep.builtin import locate
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.machine.workers import usable_cores
from fedcmi_flwr.run_config import RunConfig, read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.simulation.ownership import deal_modalities
from fedcmi_flwr.strategy.nodes import RoundFailedError, content_of
from fedcmi_flwr.types import Modality, Scalar
from fedcmi_flwr.wire.tensors import to_arrays
from server_app.run.directory import RunDirectory
from server_app.run.federation import Federation

CONTEXT_BYTES = 600 * 10**6
"""Of a GPU's memory that each process takes for CUDA itself, beside what torch counts."""
ALLOWANCE = 1.25
"""Over what was measured: other nodes have more samples, and teachers come with round 2."""
SERVER_SHARE = 0.1
"""Of a GPU's free memory that is left to the server, which evaluates there."""


def clients_that_fit(free_bytes: int, client_bytes: int) -> int:
    """Return how many clients have room on a GPU at a time, at least one.

    Parameters
    ----------
    free_bytes
        Of the GPU.
    client_bytes
        Most that torch held while one client trained.

    Returns
    -------
    The number.

    Examples
    --------
    24 GB leave 21.6 GB to clients that take 1.25 x 2 GB + 0.6 GB each.

    >>> clients_that_fit(24 * 10**9, 2 * 10**9)
    6
    """
    return max(
        1, math.floor(free_bytes * (1 - SERVER_SHARE) / (client_bytes * ALLOWANCE + CONTEXT_BYTES))
    )


def clients_on_each(fit: int, gpus: int, cores: int, sampled: int) -> int:
    """Return how many clients train on each GPU at a time.

    No more than fit, have a core, or are sampled.

    Parameters
    ----------
    fit
        From :func:`clients_that_fit`.
    gpus
        Number of GPUs.
    cores
        Of the CPU.
    sampled
        Nodes that train in a round.

    Returns
    -------
    The number, at least 1.

    Examples
    --------
    Of 10 nodes a round on 2 GPUs 5 train on each, where 16 cores and the memory allow it.

    >>> clients_on_each(6, 2, 16, 10), clients_on_each(4, 2, 16, 10), clients_on_each(6, 2, 4, 10)
    (5, 4, 2)
    """
    return max(1, min(fit, cores // gpus, math.ceil(sampled / gpus)))


def share_of(at_once: int) -> float:
    """Return the share of a GPU that Ray is asked for so that as many clients are on it, rounded
    down to 1/1000.
    """
    return math.floor(1000 / at_once) / 1000


def measured_client_bytes(raw: Mapping[str, Scalar], num_nodes: int, client_app: ClientApp) -> int:
    """Train one node of a run for one epoch on the GPU of this process, and return the most that
    torch held there.

    Parameters
    ----------
    raw
        The run-config.
    num_nodes
        Simulated nodes; the first of those that own most of the run's modalities trains.
    client_app
        The nodes' app.

    Returns
    -------
    Bytes.

    Raises
    ------
    RoundFailedError
        The node did not answer, or cannot be used; the text says why.
    WireError
        The node could not train; the text says why.
    """
    alone: dict[str, Scalar] = {"local-epochs": 1, "min-available-nodes": 1, "min-train-nodes": 1}
    alone |= {"node-memory": "context", "resume": False}
    config = read_run_config({**raw, **alone})
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as name:
        federation = Federation(config, RunDirectory(Path(name)))
        arrays = {
            key: Array(value) for key, value in to_arrays(federation.model.trained_state()).items()
        }
        node = {
            "partition-id": richest_partition(config, federation.data.modality_names, num_nodes)
        }
        grid = LocalGrid(client_app, [{**node, "num-partitions": num_nodes}], config.raw)
        task = ConfigRecord(federation.task_config())
        messages = federation.strategy.configure_train(1, ArrayRecord(arrays), task, grid)
        if not messages:
            raise RoundFailedError(federation.strategy.report.failed)

        for reply in grid.send_and_receive(messages):
            content_of(reply)

    most = int(torch.cuda.max_memory_reserved())
    torch.cuda.empty_cache()

    return most


def richest_partition(config: RunConfig, modalities: Sequence[Modality], num_nodes: int) -> int:
    """Return the first of the partitions that own most of the run's modalities, which need most
    memory.

    Parameters
    ----------
    config
        The run's.
    modalities
        Of the run.
    num_nodes
        Simulated nodes.

    Returns
    -------
    Its number.
    """
    stored = read_spec(locate(config.data.data)).modality_names
    dealt = deal_modalities(stored, config.data, num_nodes, config.training.seed)
    used = [len(set(owned) & set(modalities)) for owned in dealt]

    return used.index(max(used))


def gpu_share(
    raw: Mapping[str, Scalar], num_nodes: int, client_app: ClientApp, wanted: int | None
) -> tuple[float, str]:
    """Return the GPU share of each client and a line that says what trains.

    Parameters
    ----------
    raw
        The run-config.
    num_nodes
        Simulated nodes.
    client_app
        The nodes' app, to measure with.
    wanted
        Clients on a GPU at a time; None: as many as have room, a core and something to do, which
        is measured.

    Returns
    -------
    The share, 0 without a GPU, and the line.
    """
    config, cores = read_run_config(raw), usable_cores()
    cluster = os.environ.get("RAY_ADDRESS", "local")
    where = "" if cluster == "local" else f" of the Ray cluster {cluster}"
    if config.machine.device == "cpu" or not torch.cuda.is_available():
        at_a_time = "as many at a time as it has cores" if where else f"{cores} at a time"
        return 0.0, f"clients train on the CPU{where}, {at_a_time}"

    known = ""
    if wanted is None:
        gpus = torch.cuda.device_count()
        sampled = min(
            num_nodes,
            max(int(num_nodes * config.sampling.fraction_train), config.sampling.min_train_nodes),
        )
        needed = measured_client_bytes(raw, num_nodes, client_app)
        free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
        wanted = clients_on_each(clients_that_fit(free, needed), gpus, cores, sampled)
        known = f"; one took {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB"

    return share_of(
        wanted
    ), f"clients train on {torch.cuda.get_device_name()}{where}, {wanted} on each GPU{known}"
