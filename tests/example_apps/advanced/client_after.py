"""A client with habits of its own.

Adam, clipped gradients, a count in its state, a record of how training went.
"""

import time

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import fedcmi_net, load_data, test

from fedcmi_flwr.client import LocalObjective

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the received model on local data."""
    began = time.perf_counter()
    loader = load_data(
        int(context.node_config["partition-id"]), int(context.run_config["batch-size"])
    )
    net = fedcmi_net()
    objective = LocalObjective.from_message(msg, net, context, samples=loader)
    optimizer = torch.optim.Adam(net.parameters(), lr=msg.content["config"]["lr"])

    net.train()
    total = 0.0
    for _ in range(int(context.run_config["local-epochs"])):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = objective(net(inputs), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            objective.step(optimizer)
            total += loss.item()

    turns = int(context.state.config_records.get("turns", {"count": 0})["count"]) + 1
    context.state["turns"] = ConfigRecord({"count": turns})
    reply = objective.reply(len(loader.dataset), metrics={"train_loss": total / len(loader)})
    reply.content["how-it-went"] = ConfigRecord(
        {"turns": turns, "seconds": time.perf_counter() - began}
    )
    return reply


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    net = fedcmi_net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader = load_data(1000 + int(context.node_config["partition-id"]))
    loss, accuracy = test(net, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
