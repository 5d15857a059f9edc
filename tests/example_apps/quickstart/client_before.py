"""The client of a plain Flower app."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import Net, load_data, test
from torch.nn import Module
from torch.utils.data import DataLoader

app = ClientApp()


def fit(net: Module, loader: DataLoader, lr: float) -> float:
    """Train for one epoch and return the last loss."""
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the received model on local data."""
    loader = load_data(int(context.node_config["partition-id"]))
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loss = fit(net, loader, msg.content["config"]["lr"])
    metrics = {"train_loss": loss, "num-examples": len(loader.dataset)}
    content = RecordDict(
        {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader = load_data(1000 + int(context.node_config["partition-id"]))
    loss, accuracy = test(net, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
