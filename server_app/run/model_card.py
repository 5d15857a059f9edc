"""MODEL_CARD.md: what the user of a model should know, from the files of its run alone."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedcmi_flwr.lookup import find
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.methods import METHOD, hyperparameters, method_from
from server_app.figures.markdown import markdown_table
from server_app.pyproject import run_command
from server_app.run.directory import LAUNCH, RunDirectory, read_metrics
from server_app.run.held_out import calibrated_on, evaluated_on
from server_app.run.matrix import MatrixRow, matrix_lines, read_matrix
from server_app.run.records import epsilon_spent, failed_rounds, percent

TRAINING_KEYS = (
    *("encoder", "embedding-dim", "projector", "fusion", "initialization"),
    *("pretrained", "freeze", "adapter", "augment"),
    *(
        "num-server-rounds",
        "fraction-train",
        "local-epochs",
        "batch-size",
        "lr",
        "lr-min",
        "lr-decay-start",
    ),
    *("momentum", "weight-decay", "server-optimizer", "aggregation", "wire-dtype", "seed"),
)
"""Settings that a reader of the card may want; all of them are in config.json."""
HEADS = (
    " self-heads: the sum of the log-probabilities of the heads of the modalities that are "
    "there. combined: both."
)
RULES = {
    "two-projectors": "fused: the fusion head, a missing modality's slot filled with the mean of what the "
    "infiltration projectors make of those that are there." + HEADS,
    "one-projector": "fused: the fusion head, a missing modality's slot filled with the mean embedding of "
    "those that are there." + HEADS,
    "fusion": "fused: the fusion head, a missing modality's slot filled with zeros. The model has no "
    "other head.",
    "unimodal": "fused: the sum of the log-probabilities of the heads of the modalities that are there. "
    "The model has no fusion head.",
}
"""A model's structure -> what its rules do."""

Config = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]


def write_card(directory: RunDirectory) -> None:
    """Write the card of the model in a run directory, which has everything else already."""
    config = json.loads(directory.config_path.read_text(encoding="utf-8"))
    path = directory.path / LAUNCH
    launch = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    text = model_card(
        config, read_metrics(directory.path), read_matrix(directory.matrix_path), launch
    )
    write_atomically(directory.card_path, text)


def model_card(
    config: Config, records: Records, matrix: Sequence[MatrixRow], launch: Mapping[str, Any] | None
) -> str:
    """Return MODEL_CARD.md.

    It tells nothing of the nodes' data that the run's other files do not tell.

    Parameters
    ----------
    config
        config.json.
    records
        metrics.jsonl.
    matrix
        matrix.json.
    launch
        launch.json; None where the run was started by neither ``fedcmi run`` nor a bench.

    Returns
    -------
    Markdown.
    """
    trained = [record for record in records if record["round"] > 0]
    dataset = config["dataset"]
    title = f"# Model card: {config['method']} on {dataset['name']}, seed {config['seed']}"
    classes, modalities = dataset["classes"], dataset["modalities"]
    what = (
        f"`model.safetensors` tells {len(classes)} classes apart from {_listed(modalities)}, or "
        f"from any of them that is there. Classes: {', '.join(classes)}."
    )
    sections = {
        "Data": _data(config),
        "Federation": _federation(config, trained),
        "Method and settings": _method(config),
        "Accuracy": [f"On {evaluated_on(config)}.", "", *matrix_lines(matrix)],
        "Accuracy per class": _per_class(classes, matrix),
        "How it decides": _decisions(config),
        "Limits": _limits(config, trained, matrix),
        "How it was made": _made(config, launch),
    }
    lines = [title, "", what, ""]
    for name, content in sections.items():
        lines += [f"## {name}", "", *content, ""]

    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _data(config: Config) -> list[str]:
    dataset = config["dataset"]
    splits = ", ".join(f"{name} {count}" for name, count in dataset["splits"].items())
    settings = [[key, json.dumps(value)] for key, value in dataset["settings"].items()]
    table = (
        ["", *markdown_table(["setting of the preparation", "value"], settings)] if settings else []
    )

    return [
        f"- data set {dataset['name']}; samples: {splits}",
        f"- trained on: the training split{_left_out(config)}",
        f"- reported on: {evaluated_on(config)}",
        "- decisions and temperatures chosen on: "
        f"{calibrated_on(config) or 'nothing; there was no validation data'}",
        *table,
    ]


def _left_out(config: Config) -> str:
    """Return which parts of the training split are not trained on."""
    shares = {key: config.get(key, 0) for key in ("validation-share", "calibration-share")}
    cut = [f"{key} {share:g}" for key, share in shares.items() if share]
    return f" without the parts cut off by {' and '.join(cut)}" if cut else ""


def _federation(config: Config, trained: Records) -> list[str]:
    known: dict[str, Sequence[str]] = {}
    for record in trained:
        known |= record["known_nodes"]

    owned = Counter("+".join(names) for names in known.values())
    alpha = f", alpha {config['dirichlet-alpha']:g}" if config["partition"] == "dirichlet" else ""

    return [
        f"- {len(known)} nodes; samples dealt by partition {config['partition']}{alpha} (nodes "
        "with data of their own keep it)",
        f"- modalities of simulated nodes: {_dealt(config)}; missing-share "
        f"{config['missing-share']:g}",
        "- nodes by the modalities they own: "
        f"{', '.join(f'{names} {count}' for names, count in owned.items())}",
        f"- {len(trained)} rounds, {len(failed_rounds(trained))} of them failed; replies refused "
        f"or missing: {sum(len(record['refused']) for record in trained)}",
        f"- differential privacy of nodes: {epsilon_spent(trained[-1])}",
    ]


def _dealt(config: Config) -> str:
    """Return how modalities were dealt to simulated nodes."""
    if config["ownership"] == "multimodal-ratio":
        return f"ownership by multimodal-ratio {config['multimodal-ratio']:g}"
    return f"ownership {config['ownership']}"


def _method(config: Config) -> list[str]:
    keys = [*TRAINING_KEYS, *sorted(hyperparameters(find(METHOD, config["method"])))]
    rows = [[key, json.dumps(config[key])] for key in keys]
    return markdown_table(["setting", "value"], [["method", config["method"]], *rows])


def _per_class(classes: Sequence[str], matrix: Sequence[MatrixRow]) -> list[str]:
    subsets = ["+".join(row["modalities"]) for row in matrix]
    rows = [
        [name, *(percent(_share(row, index)) for row in matrix)]
        for index, name in enumerate(classes)
    ]
    return markdown_table(["class", *subsets], rows)


def _share(row: MatrixRow, index: int) -> float:
    """Return a class's accuracy in one row of the matrix; NaN without samples."""
    count = row["count"][index]
    return row["correct"][index] / count if count else float("nan")


def _decisions(config: Config) -> list[str]:
    source = calibrated_on(config)
    how = (
        f"For each subset of the modalities the rule with the best likelihood on {source}, after "
        "its scores were divided by the temperature that makes them likeliest there."
        if source
        else "By the method's own votes; the confidences are what the scores give, not calibrated."
    )
    return [how, RULES[method_from(config).structure]]


def _limits(config: Config, trained: Records, matrix: Sequence[MatrixRow]) -> list[str]:
    classes = config["dataset"]["classes"]
    lines = [
        "- Measured on this data set alone: nothing is known of other recordings, devices, "
        "people or classes."
    ]
    lines += [_served_worst(row, classes) for row in matrix if any(row["count"])]
    absent = [
        name for index, name in enumerate(classes) if not any(row["count"][index] for row in matrix)
    ]
    lines += [f"- Nothing is known of {_listed(absent)}: no sample to report on."] if absent else []
    lines += _weak_alone(config["dataset"]["modalities"], matrix)
    lines += _not_calibrated(matrix)
    lines += _untrained(config["dataset"]["modalities"], trained)
    if config.get("calibration-share") or config.get("validation-share"):
        lines.append(
            "- Cut off by class: samples of one person or device may stand on both sides of the "
            "cut."
        )

    if trained[-1].get("privacy") is None:
        lines.append(
            "- Trained without differential privacy: nothing bounds what the weights tell of a "
            "node's data."
        )

    return lines


def _served_worst(row: MatrixRow, classes: Sequence[str]) -> str:
    shares = {name: _share(row, index) for index, name in enumerate(classes) if row["count"][index]}
    worst = min(shares, key=lambda name: shares[name])
    return (
        f"- From {_listed(row['modalities'])}: who depends on class {worst} is served worst: "
        f"{percent(shares[worst])} of it is recognised, against {percent(row['accuracy'])} of all "
        "samples."
    )


def _weak_alone(modalities: Sequence[str], matrix: Sequence[MatrixRow]) -> list[str]:
    alone = {row["modalities"][0]: row["accuracy"] for row in matrix if len(row["modalities"]) == 1}
    known = {name: accuracy for name, accuracy in alone.items() if accuracy is not None}
    whole = matrix[-1]["accuracy"]
    if len(modalities) < 2 or not known or whole is None:
        return []

    weakest = min(known, key=lambda name: known[name])

    return [
        f"- Weakest alone: {weakest}, {percent(known[weakest])} against {percent(whole)} with "
        "everything."
    ]


def _not_calibrated(matrix: Sequence[MatrixRow]) -> list[str]:
    names = ["+".join(row["modalities"]) for row in matrix if not row["calibrated"]]
    if not names:
        return []

    return [f"- Not calibrated, so no confidence to rely on: {', '.join(names)}."]


def _untrained(modalities: Sequence[str], trained: Records) -> list[str]:
    names = [
        name for name in modalities if not any(record["owners"].get(name) for record in trained)
    ]
    return [f"- Never trained, since no node with it took part: {_listed(names)}."] if names else []


def _made(config: Config, launch: Mapping[str, Any] | None) -> list[str]:
    versions = ", ".join(
        f"{name} {version}" for name, version in config["server"]["versions"].items()
    )
    lines = [
        f"- versions on the server: {versions}",
        "- every setting: config.json; every round: metrics.jsonl",
    ]
    if launch is None:
        return lines

    command = run_command(launch["raw"], launch["num_nodes"], launch["engine"])

    return [*lines, "", "```sh", command, "```"]
