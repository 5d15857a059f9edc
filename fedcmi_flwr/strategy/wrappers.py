"""What wrappers round the strategy expect of it, such as Flower's for differential privacy.

They look at a reply's arrays one by one beside the whole model's, and reckon with every node's
update in every average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedcmi_flwr import wire
from fedcmi_flwr.machine.node_names import called
from fedcmi_flwr.methods import Method
from fedcmi_flwr.strategy.nodes import RoundFailedError
from fedcmi_flwr.types import Modality

INSTEAD = (
    "Use the strategy's own, FedCMI(..., privacy=Privacy(...)), which knows of modalities, "
    "without the wrapper."
)


class WrapperCheck:
    """Whether a wrapper is round the strategy, and what it changes for the nodes.

    Parameters
    ----------
    modalities
        All modalities of the federation.
    """

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self.modalities = modalities
        self.own_start = False
        """Whether the strategy's own ``start`` was called."""
        self._wrapper = False

    def check(self, method: Method) -> None:
        """Find out, when a ``start`` calls ``summary``, whether it is a wrapper's.

        ValueError where a wrapper would misread the method.
        """
        self._wrapper = not self.own_start
        if self._wrapper and type(method).check_reply is not Method.check_reply:
            raise ValueError(
                f"a wrapper round FedCMI: the nodes of {type(method).__name__} send arrays of "
                "their own beside the weights, which the wrapper takes for weights; choose a "
                "method that sends none."
            )

    def seen(self, known: Mapping[int, wire.NodeInfo]) -> dict[int, wire.NodeInfo]:
        """Return what nodes own; with a wrapper all get and send one array per tensor.

        Parameters
        ----------
        known
            Node id -> what it owns.

        Returns
        -------
        The same; the codec and ``ArrayRecord(model.state_dict())`` both answer such tasks.

        Raises
        ------
        RoundFailedError
            With a wrapper a node owns a part of the modalities: its reply is not the whole
            model, and fewer nodes than the wrapper reckons with share the noise of a modality.
        """
        if not self._wrapper:
            return dict(known)

        for node, info in known.items():
            if len(info.modalities) < len(self.modalities):
                who = called(node, info.name)
                raise RoundFailedError(
                    f"a wrapper round FedCMI: {who} owns {list(info.modalities)} only, but the "
                    "wrapper compares each reply with the whole model, and its noise is for "
                    f"averages over all nodes. {INSTEAD}"
                )

        return {node: replace(info, packing=wire.PLAIN) for node, info in known.items()}
