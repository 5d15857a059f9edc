"""The client of a plain Flower app."""

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import fedcmi_net, load_data, test
from torch.nn import Module
from torch.utils.data import DataLoader

from fedcmi_flwr.client import LocalObjective

app = ClientApp()


def fit(net: Module, loader: DataLoader, lr: float, objective: LocalObjective) -> float:
    """Train for one epoch and return the last loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = objective(net(inputs), labels)
        loss.backward()
        objective.step(optimizer)
    return loss.item()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the received model on local data."""
    loader = load_data(int(context.node_config["partition-id"]))
    net = fedcmi_net()
    objective = LocalObjective.from_message(msg, net, context, samples=loader)
    loss = fit(net, loader, msg.content["config"]["lr"], objective)
    return objective.reply(len(loader.dataset), metrics={"train_loss": loss})


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    net = fedcmi_net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader = load_data(1000 + int(context.node_config["partition-id"]))
    loss, accuracy = test(net, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
