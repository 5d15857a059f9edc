"""The server of a plain Flower app."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from task import fedcmi_net

from fedcmi_flwr import FedCMI

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and leave what the nodes measured."""
    net = fedcmi_net()
    strategy = FedCMI(net.groups, num_classes=4, fraction_evaluate=1.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        train_config=ConfigRecord({"lr": 0.1}),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    last = max(result.evaluate_metrics_clientapp)
    context.state["measured"] = result.evaluate_metrics_clientapp[last]
    context.state["arrays"] = result.arrays
