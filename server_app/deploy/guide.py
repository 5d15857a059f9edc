"""The README of a deployment's directory: every command, in order, for the server and for each device."""

from pathlib import Path
from shlex import quote

from server_app.deploy import services
from server_app.deploy.certificates import AUTHORITY_DAYS, SERVER_DAYS
from server_app.deploy.deployment import Deployment, Device
from server_app.figures.markdown import markdown_table
from server_app.launch.flower_cli import CONNECTION


def guide(deployment: Deployment, directory: Path) -> str:
    """Return the text.

    Parameters
    ----------
    deployment
        The deployment.
    directory
        Where it is, on the server.

    Returns
    -------
    Markdown.
    """
    parts = [_head(deployment, directory), _server(deployment, directory)]
    parts += [_device(deployment, node, directory) for node in deployment.nodes]
    return "\n".join([*parts, _training(directory), MACHINES, _notes(deployment)])


def _head(deployment: Deployment, directory: Path) -> str:
    head = ["node", "partition-id", "modalities", "prepared data, on the device"]
    nodes = [
        [node.name, str(node.partition_id), ", ".join(node.modalities), f"`{node.data}`"] for node in deployment.nodes
    ]
    listed = "\n".join(markdown_table(head, nodes))
    security = "**Insecure**: no encryption, and whoever reaches the port can join. For a closed network only."
    if deployment.secure:
        security = """TLS and node authentication are on: devices check the server's certificate by `ca.crt`, and the
server lets in only nodes whose public key is registered."""
    commands = "\n".join(f"fedcmi deploy {step} {quote(str(directory))}" for step in ("up", "run", "status", "down"))
    return f"""# A FedCMI deployment

The server is `{deployment.address}`, with this directory at `{directory}`.
{security}

{listed}

Rehearse it on one machine first, over loopback:

```sh
{commands}
```
"""


def _server(deployment: Deployment, directory: Path) -> str:
    files = directory / "server"
    check = f"curl --cacert {quote(str(files / 'ca.crt'))} https://" if deployment.secure else "curl http://"
    register = "\n".join(
        f"flwr supernode register {quote(f'{directory}/nodes/{node.name}/key.pub')} {CONNECTION} --name {node.name}"
        for node in deployment.nodes
    )
    secrets = f"""
`{files}/ca.key` signs certificates and is not needed to run: move it to a place off the network.
"""
    registering = f"""
Register the devices' public keys, before they start for the first time:

```sh
export FLWR_HOME={quote(str(files))}
{register}
```

They stay in `{files / services.DATABASE}` and need no second time after a restart.
"""
    return f"""## Server

It needs Linux, Python 3.11, this project (`make install` in a checkout, or its wheel with the extra `all`), its
prepared test data of all modalities at `{deployment.data}`, and one open port, {deployment.port}.
{secrets if deployment.secure else ""}
```sh
sudo cp {quote(f"{files}/fedcmi-superlink.service")} /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now fedcmi-superlink
{check}{deployment.address}/health
```
{registering if deployment.secure else ""}
`{files}/Containerfile` is the same service in a container.
"""


def _device(deployment: Deployment, node: Device, directory: Path) -> str:
    home = services.DEVICE_HOME
    own_key = deployment.secure and node.public_key
    key = f"\nsudo install -o fedcmi -m 600 PATH_OF_THE_PRIVATE_KEY {home}/key" if own_key else ""
    return f"""## Device {node.name}

It owns {", ".join(node.modalities)}. On the server:

```sh
scp -r {quote(str(directory / "nodes" / node.name))} {node.name}:fedcmi-node
```

On the device, with this project in `/opt/fedcmi/.venv` (`make install` in a checkout at `/opt/fedcmi`, or its wheel
with the extra `all`), and the prepared data at `{node.data}`, readable for the user `fedcmi`:

```sh
sudo useradd --system --home-dir {services.DEVICE_STATE} fedcmi
sudo install -d -o fedcmi -m 700 {home}
sudo install -o fedcmi -m 600 fedcmi-node/* {home}{key}
rm -r fedcmi-node
sudo cp {home}/fedcmi-supernode.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now fedcmi-supernode
journalctl -u fedcmi-supernode --no-pager --lines 5
```

"SuperNode ID" in the last command's output means that it was let in.
"""


def _training(directory: Path) -> str:
    run = f"fedcmi deploy run {quote(str(directory))} --run-dir RUN_DIR"
    return f"""## Training, on the server

```sh
{run}
FLWR_HOME={quote(f"{directory}/server")} flwr supernode list {CONNECTION}
fedcmi report RUN_DIR
```

`server/run.toml` holds the keys of the run-config that differ from `pyproject.toml`; `--recipe FILE` and
`--set key=value` override them. It prints a line a round, and its exit status is 0 only if the run completed. Start it
in tmux or as a service: its end stops the run. After that, or when the server went down,

```sh
{run} --resume
```

goes on from the newest checkpoint. What a method keeps on nodes begins anew (see "Resume" in the project's README).
"""


MACHINES = """## ARM64 and machines without a GPU

All dependencies, torch 2.11 included, have wheels for 64-bit ARM Linux with glibc 2.28 or newer and Python 3.11
(resolved with wheels only; not run on such a machine by us). Alpine and 32-bit ARM have none of torch.
On Linux, torch 2.11 from the standard package index depends on NVIDIA's CUDA 13 libraries, several GB, on x86-64 and on
ARM64 alike. A machine without a GPU does not use them; PyTorch's own CPU builds of the same version do without (not
tried by us): install these first and the project after them. Without a GPU a node trains on the CPU by itself;
`device = "cpu"` in `nodes.toml` makes sure of it.
"""


def _notes(deployment: Deployment) -> str:
    text = """## To know

- Services and containers run the commands that the rehearsal runs. systemd and podman are no part of our tests.
- Flower starts a new process for every message on a device, which imports torch anew.
- A device that loses its network, or whose server is restarted, comes back by itself. One that was killed is missed
  after about a minute, and until then a second one with its key is turned away (code 305): its service tries again.
"""
    if deployment.secure:
        text += f"""- Certificates are valid from a day before they were made; devices with an earlier clock cannot
  join. The server's is valid for {SERVER_DAYS} days and the authority's for {AUTHORITY_DAYS}. Nothing renews them:
  `fedcmi deploy init` into another directory makes new ones, and new keys, for the server and every device.
- A lost device is shut out by `flwr supernode unregister NODE_ID {CONNECTION}`, with the id from the list above.
- Flower has no accounts here. Whoever reaches the port can also register keys and start runs, as `flwr` does above, so
  let only devices and operators reach it (firewall, VPN).
"""
    return text
