"""A method's half on a node, inside anybody's training loop.

The loss, what is done to the gradients, and the reply.

A round, in full::

    objective = LocalObjective.from_message(message, model, context, samples=loader)
    for inputs, labels in loader:
        loss = objective(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        objective.step(optimizer)
    return objective.reply(len(loader.dataset))
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from flwr.app import Context, Message
from torch import Tensor, nn

from fedcmi_flwr.client.adapted import AdaptedModel
from fedcmi_flwr.client.begin import Received, begin_round
from fedcmi_flwr.client.calls import Call, LastCall
from fedcmi_flwr.client.compressing import asks_for_compression, compress_update, split_memory
from fedcmi_flwr.client.labels import check_logits
from fedcmi_flwr.client.memory import keep_memory, read_memory
from fedcmi_flwr.client.outputs import as_model_output
from fedcmi_flwr.client.received import as_methods_see_it, declared, load, partition_of
from fedcmi_flwr.client.running_losses import RunningLosses
from fedcmi_flwr.client.samples import LoaderSamples, NodeSamples, as_batch
from fedcmi_flwr.methods import Kept, LocalRound, LocalSteps, Method, method_from
from fedcmi_flwr.methods.applied import Applied, changes_gradients, changes_loss, terms_of
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.seeding import torch_generator
from fedcmi_flwr.types import ClassStats, Modality
from fedcmi_flwr.wire import Task, read_task, to_arrays, to_state_dict, train_reply


class Optimizer(Protocol):
    """What is asked of an optimiser; torch's have it."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:  # noqa: ANN401
        """Take a step."""


class NotAppliedError(RuntimeError):
    """A round that would be FedAvg under another name; the text says which call is missing."""


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training gives besides the trained model."""

    stats: ClassStats | None
    """Class statistics on the received model."""
    loss_sum: dict[str, float]
    """Loss term -> sum over samples and epochs, in nats."""
    loss_count: dict[str, int]
    """Loss term -> samples in the sum."""
    kept: Kept
    """What the method keeps, for the server and for the node's next turn."""
    applied: Applied
    """What was done."""


class LocalObjective:
    """One round of a method on a node.

    Parameters
    ----------
    model
        The received model as methods see it.
    method
        What is added to the loss and to the gradients.
    local
        The round, from :func:`fedcmi_flwr.client.begin.begin_round`.
    method_name
        The run's name for the method, for messages and the reply.
    """

    def __init__(
        self, model: MultimodalModel, method: Method, local: LocalRound, method_name: str
    ) -> None:
        self.model = model
        self.method = method
        self.local = local
        self.losses = RunningLosses()
        self.method_name = method_name
        self._calls = LastCall(model.module if isinstance(model, AdaptedModel) else model)
        self._steps = LocalSteps(0, 0.0, 0.0)
        self._loss_never_asked = True
        self._message: Message | None = None
        self._context: Context | None = None
        self._loader: LoaderSamples | None = None
        self._task: Task | None = None
        self._residual: dict[str, Tensor] = {}

    @classmethod
    def from_message(
        cls,
        message: Message,
        model: nn.Module,
        context: Context | None = None,
        *,
        samples: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
    ) -> "LocalObjective":
        """Load what the server sent into a model, and begin the round that it asks for.

        Parameters
        ----------
        message
            The train message.
        model
            Any torch module with the parameter names of the server's model, or one of
            :func:`wrap`; on the device where it is trained.
        context
            Flower's, of the node: gives the node's number and, where the node-config has them,
            the modalities that it trains ("image+text"), and keeps what the method remembers
            there.
        samples
            The node's training samples, each once: (inputs, labels) or (inputs, labels, present)
            of batches, where ``inputs`` is what the model is called with (a tuple: more than one
            argument), or a function that returns such a thing. Needed by methods that look at
            them before or after training: FedCMI's class statistics.

        Returns
        -------
        The objective.

        Raises
        ------
        WireError
            The message is not of the strategy.
        SamplesNeededError
            The method looks at the samples, which are not there.
        ValueError
            The method does not work with this model.
        """
        task = read_task(message)
        load(model, task)
        task = declared(task, context)
        method = method_from(task.config)
        seen = as_methods_see_it(model, task, method)
        loader = LoaderSamples(seen, samples, str(task.config["method"]))

        memory, residual = split_memory(read_memory(context) if context is not None else {})
        received = Received(task.dominance, to_state_dict(task.from_method), memory)
        tally = loader.count if method.prior_adjustment > 0 else loader.unknown
        seed, partition = int(task.config.get("seed", 0)), partition_of(context)
        generator = torch_generator(seed, "method", task.server_round, partition)
        node_samples = NodeSamples(loader.batches, tally)
        local = begin_round(seen, node_samples, method, task.server_round, received, generator)

        objective = cls(seen, method, local, str(task.config["method"]))
        objective._message, objective._context, objective._loader = message, context, loader
        if asks_for_compression(task):  # what was sent is held until the reply
            objective._task, objective._residual = task, residual

        return objective

    def __call__(
        self,
        outputs: Any,  # noqa: ANN401
        labels: Tensor,
        present: Tensor | None = None,
        *,
        inputs: Any = None,  # noqa: ANN401
    ) -> Tensor:
        """Return the loss of a batch, to call ``backward`` on.

        Parameters
        ----------
        outputs
            What the model returned: logits [batch, classes], a mapping with "fused_logits" and
            more of :class:`fedcmi_flwr.types.ModelOutput`, or what a model of :func:`wrap`
            returns.
        labels
            [batch], on the outputs' device.
        present
            [batch, modalities], truth values over all modalities of the federation in their
            order: what each sample has. None: all that the node owns.
        inputs
            What the model was called with; left out: its last call.

        Returns
        -------
        The method's terms by their weights, a scalar.

        Raises
        ------
        ValueError
            Outputs and labels of different numbers of samples, or no call of the model to be seen.
        MissingOutputError
            The method needs more than the model returns.
        """
        found = as_model_output(outputs)
        check_logits(found.fused_logits, self.model.spec.num_classes)
        if len(found.fused_logits) != len(labels):
            raise ValueError(
                f"outputs of {len(found.fused_logits)} samples, but {len(labels)} labels."
            )

        call = (
            Call(inputs if isinstance(inputs, tuple) else (inputs,))
            if inputs is not None
            else self._calls.call
        )
        if call is None:
            raise ValueError(
                "the model was not called since from_message: call the very module that was "
                "handed over, or say what it was called with, objective(outputs, labels, "
                "inputs=...)."
            )

        batch = as_batch(self.model, call, labels, present)
        terms = self.method.loss_terms(self.model, batch, found, self.local)
        self.losses.add(terms, len(labels))
        self._loss_never_asked = False

        return terms.total()

    def step(self, optimizer: Optimizer) -> None:
        """Do to the gradients what the method says (clip, proximal term, control variates), then
        step.

        Parameters
        ----------
        optimizer
            Any; call it after ``backward`` instead of ``optimizer.step()``. SCAFFOLD's control
            variates reckon with the learning rate and momentum of its first parameter group, as
            SGD means them.

        Raises
        ------
        NotAppliedError
            No trained parameter has a gradient.
        ValueError
            One of Adam's kin, and a method that goes with SGD alone.
        """
        group = optimizer.param_groups[0]
        if self.method.needs_sgd and "betas" in group:
            raise ValueError(
                f"method {self.method_name!r} {self.method.needs_sgd}; found "
                f"{type(optimizer).__name__}. Step with torch.optim.SGD, or take another method."
            )

        trained = self.model.trained_parameters().values() if self._steps.count == 0 else ()
        if trained and all(parameter.grad is None for parameter in trained):
            raise NotAppliedError(
                "objective.step(optimizer): no parameter of the model has a gradient; call "
                "loss.backward() before, and optimizer.zero_grad() not between the two."
            )

        self.method.clip_gradients(self.model)
        self.method.adjust_gradients(self.model, self.local)
        optimizer.step()
        self._steps = LocalSteps(
            self._steps.count + 1, float(group["lr"]), float(group.get("momentum", 0.0))
        )

    def finish(self) -> LocalResult:
        """End the round: what the method keeps, and what the losses add up to.

        Returns
        -------
        The result.

        Raises
        ------
        NotAppliedError
            The method was asked for, but its loss or its step was never called.
        FloatingPointError
            A weight is no longer finite.
        """
        self._check_applied()
        check_weights(self.model, self._steps.lr)
        self._calls.close()
        kept = self.method.finish(self.model, self.local, self._steps)
        applied = Applied(self.method_name, terms_of(self.method))

        return LocalResult(self.local.stats, self.losses.sums(), self.losses.counts, kept, applied)

    def reply(
        self,
        num_examples: int | None = None,
        *,
        modality_examples: Mapping[Modality, int] | None = None,
        metrics: Mapping[str, float] | None = None,
        seconds: float | None = None,
    ) -> Message:
        """End the round and answer the message with the trained model.

        Parameters
        ----------
        num_examples
            Training samples of the node; None: as many as ``samples`` had, where the method
            looked at them.
        modality_examples
            How many of them have each modality; left out: counted in ``samples``, else all.
        metrics
            Numbers of your own, which the strategy averages over nodes.
        seconds
            That training took.

        Returns
        -------
        The reply.
        """
        if self._message is None:
            raise ValueError(
                "reply() answers the message of LocalObjective.from_message; this one was made "
                "without."
            )

        result = self.finish()
        loader = self._loader
        if num_examples is None:
            num_examples = loader.num_examples if loader is not None else None

        if num_examples is None:
            raise ValueError(
                "reply(num_examples): say how many training samples the node has; nobody counted "
                "them."
            )

        if modality_examples is None and loader is not None:
            modality_examples = loader.modality_examples

        trained = to_arrays(self.model.trained_state())
        compressed, residual = (
            compress_update(self._task, trained, self._residual) if self._task else (None, {})
        )
        self._remember({**result.kept.memory, **residual})

        return train_reply(
            self._message,
            trained,
            num_examples,
            result.stats,
            loss_sum=result.loss_sum,
            loss_count=result.loss_count,
            from_method=to_arrays(result.kept.to_server),
            modality_examples=modality_examples,
            seconds=seconds,
            applied=result.applied,
            metrics=metrics,
            compressed=compressed,
        )

    def _check_applied(self) -> None:
        if self._loss_never_asked and changes_loss(self.method):
            raise NotAppliedError(
                f"method {self.method_name!r} trains with a loss of its own, which was never "
                "asked for: loss = objective(model(inputs), labels) for every batch. The run's "
                "method 'fedavg' takes any loss."
            )
        if self._steps.count == 0 and (changes_gradients(self.method) or changes_loss(self.method)):
            raise NotAppliedError(
                f"method {self.method_name!r}: no step was taken through the objective: call "
                "objective.step(optimizer) after backward, instead of optimizer.step()."
            )

    def _remember(self, memory: Mapping[str, Tensor]) -> None:
        if memory and self._context is None:
            raise NotAppliedError(
                f"method {self.method_name!r}, or the compression of updates, remembers something "
                "on the node until its next turn: hand the context over, "
                "LocalObjective.from_message(message, model, context)."
            )
        if self._context is not None:
            keep_memory(self._context, memory)


def check_weights(model: MultimodalModel, lr: float) -> None:
    """Raise FloatingPointError when a weight or running statistic is no longer finite, though the
    last loss was.
    """
    state = model.trained_state()
    finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
    broken = [name for name, fine in zip(state, finite, strict=True) if not fine]
    if broken:
        raise FloatingPointError(
            f"training diverged: weight {broken[0]!r} is not finite. Lower lr ({lr})."
        )
