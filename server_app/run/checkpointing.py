"""When a run's checkpoints are written and removed, and how a run goes on from one."""

from collections.abc import Mapping
from dataclasses import replace

from flwr.app import ArrayRecord

from fedcmi_flwr.run_config import RunConfig
from fedcmi_flwr.simulation import node_memory
from fedcmi_flwr.strategy import ModalityStrategy
from fedcmi_flwr.strategy.last_good import LastGood
from fedcmi_flwr.strategy.state import ServerState
from fedcmi_flwr.types import AnyArray
from server_app.run.best import BestModel
from server_app.run.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    checkpoint_before,
    remove_from,
    round_of,
    stored_checkpoints,
    write_checkpoint,
)
from server_app.run.directory import RunDirectory, read_metrics
from server_app.run.resume import package_versions


class Checkpointing:
    """What a run can go on from, round by round.

    Parameters
    ----------
    config
        The run's.
    directory
        Where its checkpoints lie.
    strategy
        Whose state and weights they hold.
    best
        The best round's model, which goes back with the run.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        strategy: ModalityStrategy,
        best: BestModel,
    ) -> None:
        self.config = config
        self.directory = directory
        self.strategy = strategy
        self.best = best
        self.succeeded = 0
        """The last round that succeeded."""
        self.saved = 0
        """The round of the newest checkpoint."""
        self.unsaved: tuple[int, Mapping[str, AnyArray]] | None = None
        """The last round and its weights, while no checkpoint holds them."""

    def go_on(self, checkpoint: Checkpoint) -> ArrayRecord:
        """Take over a checkpoint, and from the one before where to go back to.

        Parameters
        ----------
        checkpoint
            The newest one that is whole.

        Returns
        -------
        The model that was shown after its round.
        """
        done = self.succeeded = self.saved = checkpoint.server_round
        before = checkpoint_before(self.directory.path, done)
        good = None if before is None else LastGood(before.arrays, before.state)
        self.best.restore(read_metrics(self.directory.path))
        nodes_remember = self.config.checkpoints.node_memory == "run-dir"
        self.strategy.resume(done, self._with_account(checkpoint.state), nodes_remember, good)
        average_before = {} if before is None else before.average

        return self.strategy.model_average.restore(
            checkpoint.arrays, checkpoint.average, average_before
        )

    def note_outcome(self, server_round: int) -> None:
        """Write a checkpoint where one is due after a round that succeeded; remove those of a model
        that no node can train on.

        Parameters
        ----------
        server_round
            Whose record is written already; 0: before the first.
        """
        report = self.strategy.report
        if server_round == 0:
            return

        if report.failed:
            self._remove_unusable()
            return

        self.succeeded = server_round
        self.unsaved = (server_round, self.strategy.model_average.trained)
        every = self.config.checkpoints.checkpoint_every
        if every > 0 and server_round // every > self.saved // every:
            self._write()

    def note_failed_run(self) -> None:
        """Leave what a run can go on from that ends with a failed round."""
        self._remove_unusable()
        # With checkpoint-every above 1 the newest may be older than what is computed
        self._write()

    def _remove_unusable(self) -> None:
        """Remove what was saved of the last round that succeeded, if no node can train on it."""
        report = self.strategy.report
        if report.rolled_back != list(report.plan.names):
            return

        self.unsaved = None
        remove_from(self.directory.path / CHECKPOINTS, self.succeeded)

    def _write(self) -> None:
        """Leave what the run can go on from, where it is new."""
        if self.unsaved is None or self.config.checkpoints.checkpoint_every == 0:
            return

        (server_round, arrays), self.unsaved = self.unsaved, None
        self.saved = server_round
        average = self.strategy.model_average.average if self.config.method.averaging > 0 else {}
        state, raw = self.strategy.state(), self.config.raw
        num_nodes = self.directory.simulated_nodes()
        checkpoint = Checkpoint(
            server_round, arrays, average, state, raw, package_versions(), num_nodes
        )

        checkpoints = self.directory.path / CHECKPOINTS
        write_checkpoint(checkpoints, checkpoint, self.config.checkpoints.checkpoint_keep)
        oldest = round_of(stored_checkpoints(checkpoints)[0])
        node_memory.forget_before(self.directory.path / node_memory.DIRECTORY, oldest)
        self.best.forget_before(oldest)

    def _with_account(self, state: ServerState) -> ServerState:
        """Return a checkpoint's state with the account as it is, since rounds that are done again
        were released already.
        """
        return (
            replace(state, releases=self.directory.read_account())
            if self.strategy.privacy.enabled
            else state
        )
