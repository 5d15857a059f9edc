"""The recipes of the paper's data sets.

Known to the bench, with the authors' settings, and right for their data.
"""

import kinds
import pytest

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import check_views, views_from
from fedcmi_flwr.models.building import encoder_names
from fedcmi_flwr.models.encoders import ENCODERS
from fedcmi_flwr.run_config import read_run_config
from server_app.bench.configs import bench_configs, find_rows, find_settings, values_by_setting

CLIP = ModalitySpec("visual", "frames", (4, 3, 256, 256), "uint8")
DATA: dict[str, tuple[ModalitySpec, ...]] = {
    "cremad": (kinds.SPECTROGRAM, CLIP),
    "ave": (kinds.SPECTROGRAM, CLIP),
    "crisismmd": (kinds.IMAGE, kinds.TOKENS),
}
NAMES = [f"{name}{ending}" for name in DATA for ending in ("", "-dirichlet", "-half")]


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_settings(name: str) -> None:
    configs = bench_configs(
        values_by_setting(find_settings([name])), find_rows(["methods"]), {}, {}, []
    )
    modalities = DATA[name.partition("-")[0]]
    names = tuple(modality.name for modality in modalities)
    assert len(configs[name]) >= 10
    for raw in configs[name].values():
        run = read_run_config({**raw, "seed": 0, "run-dir": ""})
        training = run.training
        assert (run.sampling.fraction_train, training.local_epochs, training.batch_size) == (
            0.25,
            10,
            64,
        )
        assert (training.momentum, training.weight_decay) == (0.9, 1e-4)
        assert training.learning_rate(1) == 1e-3
        assert training.learning_rate(training.num_server_rounds) == pytest.approx(1e-4)
        assert training.learning_rate(training.num_server_rounds - 1) > 1e-4
        assert run.model.initialization == "xavier-kaiming"
        check_views(views_from(run.views), modalities)
        for modality in modalities:
            encoder = encoder_names(run.model.encoder, names)[modality.name]
            assert modality.kind in ENCODERS[encoder].kinds
        skewed = name.endswith("-dirichlet")
        assert (run.data.partition, run.data.dirichlet_alpha) == (
            ("dirichlet", 3.0) if skewed else ("iid", 1.0)
        )
        assert run.data.multimodal_ratio == (0.5 if name.endswith("-half") else 1.0)


def test_what_differs_between_the_data_sets() -> None:
    keys = ("num-server-rounds", "encoder", "embedding-dim", "augment", "view-size", "view-frames")
    rows = bench_configs(
        values_by_setting(find_settings(list(DATA))), find_rows(["fedcmi"]), {}, {}, []
    )
    found = {name: tuple(rows[name]["fedcmi"][key] for key in keys) for name in DATA}
    assert found == {
        "cremad": (120, "resnet18", 512, "visual", 224, 3),
        "ave": (180, "resnet18", 512, "visual", 224, 4),
        "crisismmd": (120, "image=densenet121 text=bert", 512, "", 0, 0),
    }


@pytest.mark.parametrize("name", ["cremad", "ave"])
def test_one_modality_alone_is_a_row_too(name: str) -> None:
    rows = bench_configs(
        values_by_setting(find_settings([name])), find_rows(["alone"]), {}, {}, []
    )[name]
    assert {raw["modalities"] for raw in rows.values()} == {"audio", "visual"}
