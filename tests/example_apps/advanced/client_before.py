"""A client with habits of its own.

Adam, clipped gradients, a count in its state, a record of how training went.
"""

import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import Net, load_data, test

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the received model on local data."""
    began = time.perf_counter()
    loader = load_data(
        int(context.node_config["partition-id"]), int(context.run_config["batch-size"])
    )
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=msg.content["config"]["lr"])

    net.train()
    total = 0.0
    for _ in range(int(context.run_config["local-epochs"])):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            total += loss.item()

    turns = int(context.state.config_records.get("turns", {"count": 0})["count"]) + 1
    context.state["turns"] = ConfigRecord({"count": turns})
    metrics = MetricRecord({"train_loss": total / len(loader), "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    reply = Message(content=content, reply_to=msg)
    reply.content["how-it-went"] = ConfigRecord(
        {"turns": turns, "seconds": time.perf_counter() - began}
    )
    return reply


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the received model on local data."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader = load_data(1000 + int(context.node_config["partition-id"]))
    loss, accuracy = test(net, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
