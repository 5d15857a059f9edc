"""How many clients share a GPU.

What one needs, how many have room, and what several at once train together.

Run it as ``python tests/gpu/clients.py``; it needs torch, torchvision and this repository. A
client is a process that trains the subject of ``tests/benchmarks/subjects.py`` as a node does,
in steps on batches that are on the device. On a CPU its memory is the resident set, and nothing
is said of how many have room.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.bare import make_importable

make_importable()

import torch  # noqa: E402
from benchmarks import subjects as on  # noqa: E402

from client_app.train import begin_round, new_optimizer, step  # noqa: E402
from fedcmi_flwr.client import LocalObjective  # noqa: E402

CONTEXT_BYTES, ALLOWANCE, SERVER_SHARE = 600 * 10**6, 1.25, 0.1
"""As ``server_app/launch/gpu_share.py`` has them, which needs Flower; a test compares the two."""
WARM_UP = 2
LONGEST = 600.0
"""Seconds that all clients together may take."""
Found = tuple[float, int]
"""Seconds of the steps after the first, and most bytes that were held."""


def clients_that_fit(free_bytes: int, client_bytes: int) -> int:
    """Return how many clients have room on a GPU at a time, at least one."""
    return max(1, int(free_bytes * (1 - SERVER_SHARE) / (client_bytes * ALLOWANCE + CONTEXT_BYTES)))


def client(
    name: str,
    precision: str,
    size: int,
    batch_size: int,
    steps: int,
    start: Barrier,
    found: "multiprocessing.Queue[Found]",
) -> None:
    """Train in this process, together with the others, and say how long it took and what it
    held.
    """
    torch.set_num_threads(1)
    device = torch.device(name)
    model = on.placed(on.new_model(size), device, precision)
    samples = on.made_up_samples(batch_size, size)
    settings = on.settings(batch_size)
    local = begin_round(model, samples, on.WITH_KD, settings, on.ROUND, 0, on.RECEIVED)
    batch = next(samples.batches(batch_size, on.NAMES, device))
    objective = LocalObjective(model, on.WITH_KD, local, "fedcmi")
    optimizer = new_optimizer(model.train(), settings, settings.lr)

    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            _wait_for(device)
            start.wait(LONGEST)
            began = time.perf_counter()
        step(model, batch, objective, optimizer)
    objective.losses.sums()
    _wait_for(device)
    found.put((time.perf_counter() - began, _held(device)))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _held(device: torch.device) -> int:
    """Return the most bytes that torch held on the GPU, or the process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def together(
    count: int, name: str, precision: str, size: int, batch_size: int, steps: int
) -> list[Found]:
    """Let so many clients train at the same time."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(count), context.Queue()
    arguments = (name, precision, size, batch_size, steps, start, found)
    clients = [context.Process(target=client, args=arguments) for _ in range(count)]
    for process in clients:
        process.start()
    results = [found.get(timeout=LONGEST) for _ in clients]
    for process in clients:
        process.join()
    return results


def measure(
    name: str, counts: Sequence[int], precision: str, size: int, batch_size: int, steps: int
) -> None:
    """Print a row for each number of clients; of those that have no room, one that says so."""
    device = torch.device(name)
    fit, alone = sys.maxsize, 0.0
    on.say(f"| clients at once, {precision} | samples/s together | | of one client: memory |")
    on.say("|---|---|---|---|")
    for count in counts:
        if count > fit:
            on.say(f"| {count} | no room | | |")
            continue
        results = together(count, name, precision, size, batch_size, steps)
        rate = sum(batch_size * steps / seconds for seconds, _ in results)
        alone = alone or rate / count
        held = max(held for _, held in results)
        on.say(f"| {count} | {rate:.1f} | {rate / alone:.2f} x | {held / 1e9:.2f} GB |")
        if device.type == "cuda" and fit == sys.maxsize:
            free, _ = torch.cuda.mem_get_info(device)
            fit = clients_that_fit(free, held)
            on.say(f"| room for | {fit} | | of {free / 1e9:.1f} GB free |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--clients", default="1,2,4,8", help="how many at once, joined by commas")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument(
        "--batch", type=int, default=0, help="samples a batch; default: 64 on a GPU, 8 on a CPU"
    )
    parser.add_argument("--size", type=int, default=on.SIZE, help="pixels of a frame's side")
    parser.add_argument(
        "--steps", type=int, default=0, help="of each client; default: 30 on a GPU, 3 on a CPU"
    )
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error(
            "--device cuda: torch sees no GPU here; --device cpu tries the script without one."
        )
    batch_size, steps = (
        options.batch or (64 if on_gpu else 8),
        options.steps or (30 if on_gpu else 3),
    )
    on.say(
        f"two ResNet-18, {batch_size} samples a batch, {on.describe(torch.device(options.device))}"
    )
    counts = [int(count) for count in options.clients.split(",")]
    measure(options.device, counts, options.precision, options.size, batch_size, steps)


if __name__ == "__main__":
    main()
