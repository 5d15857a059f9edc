"""A new teacher's method cannot inherit, unseen, that nodes measure nothing."""

from dataclasses import dataclass

import oracle
import pytest

from fedcmi_flwr.config.fields import number
from fedcmi_flwr.methods import METHODS, Method
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.methods.fedcmi import CrossModalInfiltration
from fedcmi_flwr.types import ClassStats, Modality

Taught = tuple[Dominance, tuple[Modality, ...]]


def test_a_teacher_of_its_own_says_when_nodes_measure() -> None:
    """With lambda = 0 FedCMI's own answer is no, whatever another loss needs."""
    with pytest.raises(
        TypeError,
        match=r"Silent\.teaching is given class statistics .* define that property in Silen",
    ):

        @dataclass(frozen=True, kw_only=True)
        class Silent(CrossModalInfiltration):
            own_weight: float = number(0, default=1.0)

            def teaching(
                self,
                owned: tuple[Modality, ...],
                server_round: int,
                received: Dominance,
                stats: ClassStats | None,
            ) -> Taught:
                return NOBODY, owned

    @dataclass(frozen=True, kw_only=True)
    class Own(CrossModalInfiltration):
        own_weight: float = number(0, default=1.0)

        @property
        def measures(self) -> bool:
            return self.own_weight > 0

        def teaching(
            self,
            owned: tuple[Modality, ...],
            server_round: int,
            received: Dominance,
            stats: ClassStats | None,
        ) -> Taught:
            return NOBODY, owned

    assert Own(lambda_=0.0).measures


def test_a_decision_of_its_own_too() -> None:
    with pytest.raises(TypeError, match=r"Deciding\.decide .* define that property"):

        class Deciding(Method):
            def decide(self, stats: ClassStats) -> Dominance:
                return NOBODY


def test_all_methods_here_keep_to_it() -> None:
    assert {name for name, method in METHODS.items() if method.measures} == {
        "fedcmi",
        "fedcmi-plus",
    }


def test_the_logits_of_who_does_not_teach_are_refused_by_name() -> None:
    local = oracle.local_round(oracle.model())
    with pytest.raises(
        LookupError, match=r"'audio' does not teach in this round: .* `measures` is True"
    ):
        local.teacher_logits("audio", oracle.batch([[1, 1]]))
