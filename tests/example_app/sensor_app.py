"""Someone's own Flower app: own model, data and loop.

Only the strategy and the codec come from fedcmi_flwr.
"""

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch.nn.functional import cross_entropy

from fedcmi_flwr import ClassStats, FedCMI, wire
from fedcmi_flwr.losses import knowledge_distillation, true_class_probability
from fedcmi_flwr.methods import make_method
from fedcmi_flwr.packing import to_arrays

SENSORS = ("acc", "gyro")
# What the loop below does; it has no mu
APPLIED = wire.Applied("fedcmi", ("gamma", "lambda", "kappa", "warmup"))
client = ClientApp()
server = ServerApp()


class SensorNet(torch.nn.ModuleDict):
    """Per sensor an own head and a head that the other sensor teaches.

    A mixer over both sensors.
    """

    def __init__(self) -> None:
        heads = {
            f"{name}_{head}": torch.nn.Linear(6, 3)
            for name in SENSORS
            for head in ("own", "taught")
        }
        super().__init__({**heads, "mixer": torch.nn.Linear(12, 3)})


def data_of(node: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Make 96 labelled windows of six features; every third node has an accelerometer only."""
    rng = np.random.default_rng(node)
    y = rng.integers(0, 3, 96)
    x = {
        name: rng.normal(size=(96, 6)) + spread * np.eye(6)[y]
        for name, spread in (("acc", 1.4), ("gyro", 4))
    }
    return {
        name: torch.tensor(x[name]).float() for name in SENSORS[: 1 + (node % 3 < 2)]
    }, torch.tensor(y)


@client.query()
def query(message: Message, context: Context) -> Message:
    """Say which sensors this node has."""
    node = int(context.node_config["partition-id"])
    return wire.query_reply(message, wire.NodeInfo(tuple(data_of(node)[0]), node))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Ten full-batch steps of FedCMI's objective."""
    task, net, teacher = wire.read_task(message), SensorNet(), SensorNet()
    x, y = data_of(int(context.node_config["partition-id"]))
    for model in (net, teacher):
        model.load_state_dict(task.state_dict, strict=False)  # a node is sent what it can use
    sure = {name: true_class_probability(teacher[f"{name}_own"](x[name]), y) for name in x}
    stats = ClassStats(
        {name: torch.bincount(y, p.double(), minlength=3).numpy() for name, p in sure.items()},
        {name: torch.bincount(y, minlength=3).numpy() for name in x},
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=task.config["lr"])
    d = task.dominance.dominant
    for _ in range(10):
        mixed = net["mixer"](torch.cat([x.get(name, torch.zeros(96, 6)) for name in SENSORS], 1))
        loss = cross_entropy(mixed, y)
        for name in x:
            loss = loss + task.config.get("gamma", 0.0) * cross_entropy(
                net[f"{name}_own"](x[name]), y
            )
            if d in x and d != name:
                temperature = task.dominance.temperature[name].float()[y]
                taught, teaches = net[f"{name}_taught"](x[name]), teacher[f"{d}_own"](x[d])
                kd = knowledge_distillation(
                    teaches, taught, temperature, torch.ones_like(y, dtype=torch.bool)
                )
                loss = loss + task.config.get("lambda", 0.0) * kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return wire.train_reply(message, to_arrays(net.state_dict()), len(y), stats, applied=APPLIED)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedCMI and leave the global model as an npz file."""
    torch.manual_seed(0)
    asked = make_method(str(context.run_config.get("method", "fedcmi")), {"mu": 0.0})
    strategy = FedCMI({"acc": ["acc_"], "gyro": ["gyro_"]}, num_classes=3, method=asked)
    start, config = ArrayRecord(SensorNet().state_dict()), ConfigRecord({"lr": 0.5})
    result = strategy.start(
        grid, start, num_rounds=int(context.run_config["rounds"]), train_config=config
    )
    np.savez(
        str(context.run_config["output"]),
        **{name: array.numpy() for name, array in result.arrays.items()},
    )
