"""Averages that the strategy keeps.

Of the global model over rounds, and of the nodes' own numbers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedcmi_flwr.aggregation.mean import moving_average
from fedcmi_flwr.types import AnyArray

Arrays = Mapping[str, AnyArray]
MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]
"""From the nodes' numbers, one RecordDict a node, and the key of their weight to what is
reported of them."""


class ModelAverage:
    """The moving average of the global weights, a <- decay a + (1 - decay) w after each round.

    It is what a round returns, so that it is evaluated, saved and given to the nodes that
    evaluate; training goes on from w.

    Parameters
    ----------
    decay
        The method's ``averaging``; 0: the average is the last model.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: Arrays = {}
        """a; empty before the first round."""
        self.trained: Arrays = {}
        """w, which the next round starts from."""
        self._before: Arrays = {}
        """a without the last round, whose model nodes may still find unusable."""
        self._shown: ArrayRecord | None = None

    def add(self, trained: Arrays, gone_back: Collection[str] = ()) -> ArrayRecord:
        """Take the model after a round that succeeded.

        Parameters
        ----------
        trained
            Name -> array.
        gone_back
            Names of arrays that went back to their last good values.

        Returns
        -------
        The average, as the round's model.
        """
        self.take_out(trained, gone_back)
        self._before = self.average
        self.average = moving_average(self.average or None, trained, self.decay)

        return self._show()

    def take_out(self, trained: Arrays, names: Collection[str]) -> ArrayRecord:
        """Take arrays that went back to their last good values out of the average.

        The rest is as for :meth:`add`.
        """
        self.trained = trained
        if self.average:
            before = self._before or trained
            self.average = {**self.average, **{name: before[name] for name in names}}

        return self._show()

    def restore(self, trained: Arrays, average: Arrays, before: Arrays) -> ArrayRecord:
        """Go on with the models of an earlier process; return what its last round returned.

        Parameters
        ----------
        trained
            w after its last round.
        average
            a after it; empty: there is none.
        before
            a before it, where that is known.

        Returns
        -------
        The model to begin with.
        """
        self.trained, self.average, self._before = trained, average, before
        return self._show()

    def training_weights(self, arrays: ArrayRecord) -> Arrays:
        """Return the weights that training goes on from.

        They are the trained ones where a round of this object returned ``arrays``.
        """
        if self.decay > 0 and arrays is self._shown:
            return self.trained
        return {name: array.numpy() for name, array in arrays.items()}

    def _show(self) -> ArrayRecord:
        shown = self.average if self.decay > 0 and self.average else self.trained
        self._shown = ArrayRecord({name: Array(value) for name, value in shown.items()})
        return self._shown


def mean_metrics(records: Sequence[RecordDict], weight_key: str) -> MetricRecord:
    """Average numbers over the nodes that have them, as Flower's FedAvg does where all nodes have
    all.

    Parameters
    ----------
    records
        One a node, with one MetricRecord each.
    weight_key
        Key of the node's weight, which is no part of the result.

    Returns
    -------
    Key -> weighted mean; of lists element by element, over those of the first one's length.
    """
    metrics = [next(iter(record.metric_records.values())) for record in records]
    found = MetricRecord()
    for key in dict.fromkeys(key for each in metrics for key in each if key != weight_key):
        first = np.shape(next(each[key] for each in metrics if key in each))
        having = [each for each in metrics if key in each and np.shape(each[key]) == first]
        weights = [each[weight_key] for each in having]
        mean = np.average([each[key] for each in having], axis=0, weights=weights)
        found[key] = mean.tolist()

    return found


def own_metrics(
    weighted: Sequence[tuple[Mapping[str, float | list[float]], int]],
    weight_key: str,
    aggregate: MetricsAggregation,
) -> MetricRecord:
    """Return what a round reports of the nodes' own numbers.

    Parameters
    ----------
    weighted
        Of each node its numbers, and its samples.
    weight_key
        Under which the samples go to ``aggregate``.
    aggregate
        As Flower's FedAvg takes it.

    Returns
    -------
    The numbers; none where no node has any.
    """
    having = [(metrics, samples) for metrics, samples in weighted if metrics]
    records = [
        RecordDict({"metrics": MetricRecord({**metrics, weight_key: n})}) for metrics, n in having
    ]
    return MetricRecord(dict(aggregate(records, weight_key))) if records else MetricRecord()
