"""A regression app: own loss, own loop, plain Flower messages.

Only the strategy's aggregation is taken.
"""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedcmi_flwr import FedCMI

client = ClientApp()
server = ServerApp()


def new_model() -> torch.nn.ModuleDict:
    """Return one linear layer a sensor; their sum is the prediction."""
    return torch.nn.ModuleDict({"left": torch.nn.Linear(3, 1), "right": torch.nn.Linear(3, 1)})


def data_of(node: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make readings of both sensors, and a target that is linear in them."""
    generator = torch.Generator().manual_seed(node)
    left, right = (torch.randn(64, 3, generator=generator) for _ in range(2))
    return left, right, left.sum(1, keepdim=True) - 2 * right[:, :1]


def error(model: torch.nn.ModuleDict, node: int) -> torch.Tensor:
    """Return the mean squared error on a node's data."""
    left, right, target = data_of(node)
    return torch.nn.functional.mse_loss(model["left"](left) + model["right"](right), target)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Take twenty steps."""
    model = new_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss = error(model, int(context.node_config["partition-id"]))
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"mse": loss.item(), "num-examples": 64})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}),
        reply_to=message,
    )


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the error on data that nobody trained on."""
    model = new_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    found = error(model, 1000 + int(context.node_config["partition-id"])).item()
    return Message(
        RecordDict({"metrics": MetricRecord({"mse": found, "num-examples": 64})}), reply_to=message
    )


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Average each sensor's layer over the nodes, and leave what they measured."""
    groups = {"left": ["left."], "right": ["right."]}
    strategy = FedCMI(groups, num_classes=1, method="fedavg", fraction_evaluate=1.0)
    result = strategy.start(
        grid, ArrayRecord(new_model().state_dict()), num_rounds=int(context.run_config["rounds"])
    )
    context.state["measured"] = result.evaluate_metrics_clientapp[
        max(result.evaluate_metrics_clientapp)
    ]
