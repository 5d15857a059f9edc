"""Disturbs runs at random moments.

Each goes on or says how to in one sentence, and ends as the undisturbed one does.

Run it as ``python tests/chaos/run.py --moments 20 --seed 0``. Every moment is a run of the
command line on Ray, in one process (``--engine in-process``) or on a rehearsed deployment
(``--engine deployment``): what ``harms.py`` names in turn is done to it while it starts or
trains. Then

* it ends with status 0, or what it printed has one sentence that says how to go on, and no
  traceback;
* ``--resume`` ends with status 0, or there was no checkpoint yet and the sentence says so;
* model and metrics are then those of the run that nothing was done to, bit for bit;
* of its processes none is left.

Exit status 1 where one of these does not hold.
"""

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(HERE)]

import harms  # noqa: E402
import oracle  # noqa: E402
from deployment_harms import ON_DEPLOYMENT  # noqa: E402
from deployments import Deployments  # noqa: E402
from judging import Engine  # noqa: E402
from rehearsed import Rehearsed  # noqa: E402
from simulations import Simulations  # noqa: E402

KINDS = {"flower": harms.ON_RAY, "in-process": harms.IN_PROCESS, "deployment": ON_DEPLOYMENT}
MADE_UP = "made-up"
SAMPLES = 120
"""Of the made-up data set."""


@contextlib.contextmanager
def engine_of(options: argparse.Namespace, folder: Path, library: Path | None) -> Iterator[Engine]:
    """Get ready what runs are started on; stop it afterwards."""
    if options.engine == "deployment":
        with Rehearsed(folder, options.limit, library) as site:
            yield Deployments(site)
        return

    data = options.data
    if data == MADE_UP:
        present = {name: np.ones(SAMPLES, dtype=bool) for name in ("audio", "visual")}
        data = str(oracle.prepare(folder / MADE_UP, present))
    yield Simulations(folder, options.engine, data, options.limit, library)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def disturb_all(engine: Engine, names: list[str], count: int, seed: int) -> int:
    """Disturb runs, print a line for each, and return how many did not end right."""
    whole, chance = engine.undisturbed(), random.Random(seed)
    say(f"undisturbed: round 1 after {whole.first:.1f} s, then {whole.a_round:.2f} s a round")
    wrong = 0
    for number, moment in enumerate(whole.moments(count, names, chance), start=1):
        done, ending = engine.disturb(whole, moment, chance)
        wrong += ending.startswith("WRONG")
        when = "starting" if moment.after < 0 else f"round {moment.after}"
        say(f"{number:>3} {moment.harm:<28} {when} + {moment.delay:.1f} s ({done}): {ending}")

    if ending := engine.finish(whole):
        wrong += ending.startswith("WRONG")
        say(f"the last run: {ending}")
    return wrong


def main() -> None:
    """Disturb runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=KINDS, default="flower")
    parser.add_argument(
        "--only", help="kinds of harm, joined by semicolons; default: all that the engine has"
    )
    parser.add_argument(
        "--data",
        default="av-digits",
        help=f"of simulations: built-in data set, prepared directory, or {MADE_UP}",
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds that a command may take")
    options = parser.parse_args()
    known = KINDS[options.engine]
    names = options.only.split(";") if options.only else list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--only: no {', '.join(unknown)}; there is {', '.join(known)}")

    with tempfile.TemporaryDirectory(prefix="fedcmi-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        library = harms.clock_library(folder)
        if library is None:
            names = [each for each in names if not each.startswith("clock jumps")]
            say("clock jumps: left out, no C compiler (cc) here")

        with engine_of(options, folder, library) as engine:
            wrong = disturb_all(engine, names, options.moments, options.seed)
        say(f"{options.moments} moments, seed {options.seed}: {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
