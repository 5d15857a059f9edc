"""Who owns which modalities in a simulation."""

from collections.abc import Sequence

from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.seeding import numpy_generator
from fedcmi_flwr.types import Modality

MOST_DRAWS = 1000
"""After which random subsets are given up."""


def deal_modalities(
    modalities: Sequence[Modality], config: DataConfig, num_partitions: int, seed: int
) -> list[tuple[Modality, ...]]:
    """Decide, by seed, which modalities each partition owns.

    Parameters
    ----------
    modalities
        Modalities of the data set.
    config
        Gives ``ownership`` and ``multimodal-ratio``.
    num_partitions
        Number of partitions.
    seed
        The run's seed.

    Returns
    -------
    Owned modalities of each partition, in the data set's order.

    Raises
    ------
    DataError
        The partitions are too few for random subsets.
    """
    if config.ownership == "random-subsets":
        return random_subsets(modalities, num_partitions, seed)
    return owned_modalities(modalities, config.multimodal_ratio, num_partitions, seed)


def owned_modalities(
    modalities: Sequence[Modality], multimodal_ratio: float, num_partitions: int, seed: int
) -> list[tuple[Modality, ...]]:
    """Decide, by seed, which partitions keep every modality; the rest own one each, dealt evenly.

    Parameters
    ----------
    modalities
        Modalities of the data set.
    multimodal_ratio
        Share of partitions that keep all of them, rounded to whole partitions.
    num_partitions
        Number of partitions.
    seed
        The run's seed.

    Returns
    -------
    Owned modalities of each partition, in the data set's order.

    Examples
    --------
    >>> sorted(owned_modalities(("audio", "visual"), 0.5, 4, seed=0))
    [('audio',), ('audio', 'visual'), ('audio', 'visual'), ('visual',)]
    """
    order = numpy_generator(seed, "modalities").permutation(num_partitions)
    multimodal = round(multimodal_ratio * num_partitions)
    owned: list[tuple[Modality, ...]] = [tuple(modalities)] * num_partitions
    for position, partition in enumerate(order[multimodal:]):
        owned[partition] = (modalities[position % len(modalities)],)

    return owned


def random_subsets(
    modalities: Sequence[Modality], num_partitions: int, seed: int
) -> list[tuple[Modality, ...]]:
    """Draw, by seed, a non-empty subset of the modalities for each partition, all subsets being
    equally likely.

    Drawn again, all of them, until every modality has an owner and some partition owns two or more.

    Parameters
    ----------
    modalities
        Modalities of the data set.
    num_partitions
        Number of partitions.
    seed
        The run's seed.

    Returns
    -------
    Owned modalities of each partition, in the data set's order.

    Raises
    ------
    DataError
        None of ``MOST_DRAWS`` draws was like that: there are too few partitions.

    Examples
    --------
    >>> random_subsets(("audio", "visual"), 3, seed=1)
    [('audio',), ('visual',), ('audio', 'visual')]
    """
    for draw in range(MOST_DRAWS):
        numbers = numpy_generator(seed, "modality subsets", draw).integers(
            1, 2 ** len(modalities), num_partitions
        )
        dealt = [
            tuple(name for bit, name in enumerate(modalities) if number >> bit & 1)
            for number in numbers.tolist()
        ]
        paired = any(len(names) > 1 for names in dealt) or len(modalities) == 1
        if paired and {name for names in dealt for name in names} == set(modalities):
            return dealt

    raise DataError(
        f"ownership = 'random-subsets': in {MOST_DRAWS} draws for {num_partitions} nodes, one of "
        f"{list(modalities)} had no owner, or nobody owned two. Use more nodes or another "
        "ownership."
    )
