"""A server with a strategy of its own.

A decaying rate, the nodes' records, the best model by the server's samples.
"""

from collections.abc import Iterable

import task
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp

from fedcmi_flwr import FedCMI, ServerOptimizer

app = ServerApp()


class Own(FedCMI):
    """A strategy that halves the nodes' rate every second round, and keeps what they say of their
    training.
    """

    turns: list[int]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for a smaller rate in every second round."""
        if server_round % 2 == 0:
            config["lr"] = float(config["lr"]) / 2
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Read the nodes' records before the replies are averaged."""
        found = list(replies)
        self.turns = [
            int(reply.content["how-it-went"]["turns"]) for reply in found if reply.has_content()
        ]
        return super().aggregate_train(server_round, found)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and leave the best model and what was measured."""
    net, held_out = task.fedcmi_net(), task.load_data(2000)
    best = [0.0]

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        net.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = task.test(net, held_out)
        if accuracy >= best[0]:
            best[0], context.state["best"] = accuracy, ArrayRecord(net.state_dict())
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    adam = ServerOptimizer("fedadam", 0.1)
    strategy = Own(net.groups, 3, server_optimizer=adam, fraction_evaluate=0.5)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        train_config=ConfigRecord({"lr": 0.01}),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    context.state["turns"] = ConfigRecord({"of-each": strategy.turns})
    context.state["measured"] = result.evaluate_metrics_serverapp[
        max(result.evaluate_metrics_serverapp)
    ]
