"""One run on the server.

The model, the strategy and its settings, evaluation after every round, and what it leaves.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from fedcmi_flwr.aggregation.privacy import PrivacyBudgetError, check_arrays
from fedcmi_flwr.config.sections import section_items
from fedcmi_flwr.evaluation.counts import evaluate, gives_numbers
from fedcmi_flwr.evaluation.decision import Decisions, uncalibrated
from fedcmi_flwr.evaluation.selection import selection_figures
from fedcmi_flwr.methods import hyperparameters
from fedcmi_flwr.models import pretrained
from fedcmi_flwr.models.building import model_spec
from fedcmi_flwr.models.file import load_model, save_model
from fedcmi_flwr.models.initialization import initialize
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel, parameter_groups
from fedcmi_flwr.models.placement import choose_device
from fedcmi_flwr.models.published import check_recipes, read_architectures
from fedcmi_flwr.run_config import RunConfig, portable_settings
from fedcmi_flwr.seeding import torch_global_seed
from fedcmi_flwr.strategy import ModalityStrategy
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.types import SHARED, AnyArray
from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict
from server_app.run.best import VALIDATION, BestModel, EnoughRoundsError
from server_app.run.checkpoint import Checkpoint
from server_app.run.checkpointing import Checkpointing
from server_app.run.conclusion import conclude
from server_app.run.directory import RunDirectory
from server_app.run.expected import expected_names
from server_app.run.matrix import matrix_lines, write_matrix
from server_app.run.model_card import write_card
from server_app.run.records import round_line, round_record
from server_app.run.resume import package_versions, remove_resumables
from server_app.run.server_data import read_server_data
from server_app.run.start_from import start_from

logger = logging.getLogger("flwr.fedcmi")


class Federation:
    """One run: model, held-out samples, strategy and where the results go.

    Parameters
    ----------
    config
        The checked configuration.
    directory
        Where results are written.
    after_round
        Called when a round's record has been written.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        after_round: Callable[[], None] | None = None,
    ) -> None:
        torch.set_num_threads(config.machine.torch_threads)
        # A run that went on leaves the same files
        self.config = replace(config, raw={**config.raw, "resume": False})
        self.directory = directory
        self.after_round = after_round
        self._read_data()
        self._build_model()
        self.best = BestModel(directory.path, config.selection)
        self.server_round = 0
        """The round whose (averaged) weights the model has."""
        self.strategy = ModalityStrategy(
            {
                name: prefixes
                for name, prefixes in parameter_groups(self.spec).items()
                if name != SHARED
            },
            len(self.data.classes),
            config.method,
            seed=config.training.seed,
            sampling=config.sampling,
            tolerance=config.tolerance,
            guards=replace(config.guards, expected=expected_names(config, self.spec.modalities)),
            aggregation=config.aggregation,
            server_optimizer=config.server_optimizer,
            privacy=config.privacy,
            wire_dtype=config.federation.wire_dtype,
        )
        self.strategy.why_unusable = self._why_unusable
        self.checkpoints = Checkpointing(self.config, directory, self.strategy, self.best)
        if self.strategy.privacy.enabled:
            check_arrays(to_arrays(self.model.trained_state()))

    def _read_data(self) -> None:
        """Take what the run trains on, and the samples that the server keeps for itself."""
        found = read_server_data(self.config)
        self.data, self.recipes, self.locations = found.spec, found.recipes, found.locations
        self.test_samples, self.calibration = found.reported, found.calibration
        self.selection = found.selection

    def _build_model(self) -> None:
        """Initialise the model, pretrained trunks included, and note what nodes need to build it
        again.
        """
        config, modalities = self.config, self.data.modality_names
        options = read_architectures(config.model, self.data.modalities, self.locations)
        check_recipes(options, self.recipes)
        self.spec: ModelSpec = model_spec(
            config.model, config.method, modalities, len(self.data.classes), options
        )
        pretrained.check_frozen(self.locations, self.spec.held)

        with torch_global_seed(config.training.seed, "model"):
            self.model = MultimodalModel(self.spec, self.data.modalities)
            trunks = [self.model.branch(name).encoder.trunk for name in self.locations]
            initialize(self.model, config.model.initialization, trunks)
            config.method.initialize(self.model)

        self.checksums = pretrained.load_trunks(self.model, self.locations)
        start_from(config, self.model, self.data.classes)
        self.model.to(choose_device(config.machine.device))

    def run(self, grid: Grid, checkpoint: Checkpoint | None = None) -> None:
        """Train for all rounds, or those after a checkpoint, then write the summary.

        Parameters
        ----------
        grid
            Where the nodes are connected.
        checkpoint
            What the run goes on from; None: it begins.
        """
        resolved = self.resolved_config()
        self.directory.write_config(resolved)
        initial = _record(to_arrays(self.model.trained_state()))
        if checkpoint is not None:
            # What was shown after that round; nodes train on from its own weights
            self._load(checkpoint.server_round, checkpoint.average or checkpoint.arrays)
            initial = self.checkpoints.go_on(checkpoint)

        try:
            self._stop_if_enough()
            self.strategy.start(
                grid=grid,
                initial_arrays=initial,
                num_rounds=self.config.federation.num_server_rounds - self.strategy.rounds_done,
                timeout=self.config.federation.round_timeout,
                train_config=ConfigRecord(self.task_config()),
                evaluate_config=ConfigRecord(self.task_config()),
                evaluate_fn=self.evaluate,
            )
        except RoundFailedError:
            self.checkpoints.note_failed_run()
            raise
        except (PrivacyBudgetError, EnoughRoundsError) as error:
            if self.strategy.privacy.enabled and not self.strategy.releases:
                # The budget is too small for one round
                raise
            logger.info("the run ends here: %s", error)

        self.directory.finish(resolved, self.conclude())
        remove_resumables(self.directory.path)
        self.best.clear()
        logger.info("finished; results in %s", self.directory.path)

    def resolved_config(self) -> dict[str, Any]:
        """Return the run-config with the method's hyperparameters filled in, and the data set's
        description.
        """
        dataset = {
            "name": self.data.name,
            "splits": self.data.splits,
            "settings": self.data.settings,
            "classes": list(self.data.classes),
            "modalities": list(self.data.modality_names),
        }
        machine = {
            "device": str(choose_device(self.config.machine.device)),
            "versions": package_versions(),
        }
        return {
            **self.config.raw,
            **hyperparameters(self.config.method),
            "dataset": dataset,
            "server": machine,
        }

    def task_config(self) -> dict[str, Any]:
        """Return what every train message carries besides the strategy's own keys."""
        inputs = {f"input.{modality.name}": modality.to_json() for modality in self.data.modalities}
        options = {
            f"options.{name}": json.dumps(values) for name, values in self.spec.options.items()
        }
        frozen = {
            f"frozen.{name}": [self.checksums[name], self.locations[name]]
            for name in self.spec.held
        }
        described = {"classes": list(self.data.classes), **inputs, **options, **frozen}
        settings = {**section_items(self.config.training), **section_items(self.config.views)}
        if self.config.federation.update_compression != "none":
            told = section_items(self.config.federation)
            settings |= {key: told[key] for key in ("update-compression", "top-k-share")}

        return {"method": self.config.method_name, **settings, **described}

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the (averaged) global model on the held-out samples, save it, and write the
        round's record.

        Parameters
        ----------
        server_round
            Counted by Flower's ``start``: 0 before the first round, which a run that goes on has
            behind it.
        arrays
            The (averaged) global model.

        Returns
        -------
        Accuracies; None where there was nothing to do.
        """
        if server_round == 0 and self.strategy.rounds_done:
            return None

        server_round += self.strategy.rounds_done
        method = self.config.method
        values = {name: array.numpy() for name, array in arrays.items()}
        if self.strategy.privacy.enabled:
            # Before anything that it accounts for
            self.directory.write_account(self.strategy.releases)

        self._load(server_round, values)
        batches = self.test_samples.evaluation_batches(
            self.spec.modalities, choose_device(self.config.machine.device)
        )
        counts = evaluate(self.model, batches, method.votes)
        self._save(Decisions(self.spec.modalities, uncalibrated(method.votes)))

        record = round_record(server_round, counts, self.strategy.report if server_round else None)
        record |= self._validated(server_round)
        self.directory.append(record)
        logger.info(round_line(record, self.config.federation.num_server_rounds))

        self.checkpoints.note_outcome(server_round)
        if self.after_round is not None:
            self.after_round()

        self._stop_if_enough()

        return MetricRecord({f"accuracy.{name}": found.accuracy for name, found in counts.items()})

    def conclude(self) -> list[str]:
        """Choose how the finished model decides and save that, the accuracy matrix and the model
        card.

        Returns
        -------
        What summary.md says of it.
        """
        if self.best.server_round:
            best, _ = load_model(self.best.path)
            self.model.load_state_dict(best.state_dict())
            self.server_round = self.best.server_round

        decisions, rows = conclude(
            self.model, self.test_samples, self.calibration, self.config.method.votes
        )
        self._save(decisions)
        write_matrix(self.directory.matrix_path, rows)
        write_card(self.directory)

        return ["## Accuracy matrix", "", *matrix_lines(rows), ""]

    def _validated(self, server_round: int) -> dict[str, dict[str, float]]:
        """Return the figures of the round's model on validation data, and keep it if it is the best
        one.
        """
        if self.selection is None:
            return {}

        votes, device = self.config.method.votes, choose_device(self.config.machine.device)
        batches = self.selection.evaluation_batches(self.spec.modalities, device)
        figures = selection_figures(self.model, batches, votes)
        if server_round > 0 and not self.strategy.report.failed:
            decisions = Decisions(self.spec.modalities, uncalibrated(votes))
            self.best.note(server_round, figures, lambda path: self._save(decisions, path))

        return {VALIDATION: figures}

    def _stop_if_enough(self) -> None:
        reason = self.best.why_over()
        if reason:
            raise EnoughRoundsError(reason)

    def _why_unusable(self, arrays: Mapping[str, AnyArray]) -> str:
        """Return what is wrong with a new global model.

        Empty where it gives numbers for samples.
        """
        self.model.load_trained_state(to_state_dict(arrays))
        device = choose_device(self.config.machine.device)
        batch = next(iter(self.test_samples.evaluation_batches(self.spec.modalities, device)), None)
        if batch is None or gives_numbers(self.model, batch):
            return ""

        return "the new global model gives NaN or Inf for samples that the server has"

    def _load(self, server_round: int, arrays: Mapping[str, AnyArray]) -> None:
        self.server_round = server_round
        self.model.load_trained_state(to_state_dict(arrays))

    def _save(self, decisions: Decisions, path: Path | None = None) -> None:
        """Write the model as it is, with how it decides; without a path as the run's."""
        votes = decisions.default.votes
        rule = {"self-head-votes": votes.self_heads, "infiltration-votes": votes.infiltration_heads}
        settings = portable_settings(self.config.raw)
        described = {"run-config": settings, **rule, "decisions": decisions.to_json()}
        notes = {"round": self.server_round, **described, "recipes": self.recipes}
        # With the frozen trunks, so that it can be loaded alone
        whole = to_arrays(self.model.state_dict())
        save_model(
            path or self.directory.model_path,
            whole,
            self.spec,
            self.data.modalities,
            self.data.classes,
            notes,
        )


def _record(arrays: Mapping[str, AnyArray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
