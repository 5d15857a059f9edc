"""A Hugging Face encoder beside a small CNN: wrapped, and trained a whole round in one call."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertModel

from fedcmi_flwr import FedCMI
from fedcmi_flwr.client import WrappedModel, train_round, wrap

client = ClientApp()
server = ServerApp()
CLASSES, WORDS, LENGTH = 3, 30, 6


class Text(nn.Module):
    """A tiny BERT, made on the spot; ``from_pretrained`` goes in the same place."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        self.bert = BertModel(BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, **sizes))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the pooled output, [batch, 16]."""
        return self.bert(ids).pooler_output


def new_model() -> WrappedModel:
    """Return FedCMI's model round both encoders."""
    picture = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16)
    )
    return wrap({"text": Text(), "picture": picture}, CLASSES, embedding_dim=16)


def load_data(node: int) -> DataLoader:
    """Make labelled pairs of a sentence, whose first words tell, and a picture."""
    generator = torch.Generator().manual_seed(node)
    labels = torch.randint(0, CLASSES, (64,), generator=generator)
    ids = torch.randint(CLASSES, WORDS, (64, LENGTH), generator=generator)
    ids[:, 1:3] = labels[:, None]
    pictures = torch.randn(64, 1, 8, 8, generator=generator)
    pictures[torch.arange(64), 0, labels] += 1.0
    return DataLoader(
        TensorDataset(ids, pictures, labels), 16, True, generator=generator, collate_fn=collate
    )


def collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch: inputs by modality, and labels."""
    ids, pictures, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"text": ids, "picture": pictures}, labels


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train for a round; the method is the server's."""
    loader = load_data(int(context.node_config["partition-id"]))
    config = message.content["config"]
    return train_round(
        message, context, new_model(), loader, lr=config["lr"], epochs=config["epochs"]
    )


@client.evaluate()
@torch.no_grad()
def evaluate(message: Message, context: Context) -> Message:
    """Count what is right on data that nobody trained on."""
    model = new_model().eval()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loader = load_data(1000 + int(context.node_config["partition-id"]))
    right = sum(
        int((model(inputs).fused_logits.argmax(1) == labels).sum()) for inputs, labels in loader
    )
    metrics = MetricRecord(
        {"accuracy": right / len(loader.dataset), "num-examples": len(loader.dataset)}
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and leave what the nodes measured."""
    torch.manual_seed(0)
    model, method = new_model(), str(context.run_config["method"])
    model.initialize(method)
    strategy = FedCMI(model.groups, CLASSES, method=method, fraction_evaluate=1.0)
    result = strategy.start(
        grid,
        ArrayRecord(model.state_dict()),
        num_rounds=int(context.run_config["rounds"]),
        train_config=ConfigRecord({"lr": 0.05, "epochs": 2}),
    )
    context.state["measured"] = result.evaluate_metrics_clientapp[
        max(result.evaluate_metrics_clientapp)
    ]
