"""The README of a deployment's directory: every command, in order, for the server and for each device."""

from pathlib import Path

from server_app.deploy import services
from server_app.deploy.plan import Node, Plan
from server_app.flower_cli import CONNECTION


def guide(plan: Plan, directory: Path) -> str:
    """Return the text.

    Parameters
    ----------
    plan
        The deployment.
    directory
        Where it is, on the server.

    Returns
    -------
    Markdown.
    """
    parts = [_head(plan, directory), _server(plan, directory)]
    parts += [_device(plan, node, directory) for node in plan.nodes]
    return "\n".join([*parts, _training(directory), _machines(), _notes(plan)])


def _head(plan: Plan, directory: Path) -> str:
    listed = "\n".join(
        f"| {node.name} | {node.partition_id} | {', '.join(node.modalities)} | `{node.data}` |" for node in plan.nodes
    )
    security = (
        "TLS and node authentication are on: devices check the server's certificate by `ca.crt`, and the server lets in "
        "only nodes whose public key is registered."
        if plan.secure
        else "**Insecure**: no encryption, and anybody who reaches the port can join. Not outside of a closed network."
    )
    return f"""# A FedCMI deployment

The server is `{plan.address}`, with this directory at `{directory}`. {security}

| node | partition-id | modalities | prepared data, on the device |
|---|---|---|---|
{listed}

Rehearse it on this machine first, over loopback: `fedcmi deploy up {directory}`, `fedcmi deploy run {directory}`,
`fedcmi deploy status {directory}`, `fedcmi deploy down {directory}`.
"""


def _server(plan: Plan, directory: Path) -> str:
    files = directory / "server"
    check = f"curl --cacert {files / 'ca.crt'} https://" if plan.secure else "curl http://"
    away = (
        f"Move `{files / 'ca.key'}` to a place off the network: it signs certificates and is not needed to run.\n\n"
        if plan.secure
        else ""
    )
    register = "".join(
        f"flwr supernode register {directory}/nodes/{node.name}/key.pub {CONNECTION} --name {node.name}\n"
        for node in plan.nodes
    )
    registering = (
        "Register the devices' public keys, before they start for the first time:\n\n"
        f"```sh\nexport FLWR_HOME={files}\n{register}```\n"
        if plan.secure
        else ""
    )
    return f"""## Server

{away}The server needs Linux, Python 3.11, this project (`make install` in a checkout), its prepared test data of all
modalities at `{plan.data}`, and one open port, {plan.port}.

```sh
sudo cp {files}/fedcmi-superlink.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now fedcmi-superlink
journalctl -u fedcmi-superlink --no-pager --lines 5
{check}{plan.address}/health
```

{registering}Registrations are kept in `{files / services.DATABASE}` and survive a restart. `{files}/Containerfile` is the
same service in a container.
"""


def _device(plan: Plan, node: Node, directory: Path) -> str:
    here = directory / "nodes" / node.name
    key = ""
    if plan.secure and node.public_key:
        key = "sudo install -o fedcmi -m 600 PATH_OF_THE_PRIVATE_KEY /etc/fedcmi/key    # it stays on the device\n"
    return f"""## Device {node.name}

It owns {", ".join(node.modalities)}. On the server:

```sh
scp -r {here} {node.name}:fedcmi-node
```

On the device, with a checkout of this project at `/opt/fedcmi`, `make install` run in it, and the prepared data at
`{node.data}`, readable for the user `fedcmi`:

```sh
sudo useradd --system --home-dir {services.DEVICE_STATE} fedcmi
sudo install -d -o fedcmi -m 700 {services.DEVICE_HOME}
sudo install -o fedcmi -m 600 fedcmi-node/* {services.DEVICE_HOME}
{key}rm -r fedcmi-node
sudo cp {services.DEVICE_HOME}/fedcmi-supernode.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now fedcmi-supernode
journalctl -u fedcmi-supernode --no-pager --lines 5    # "SuperNode ID" means that it was let in
```
"""


def _training(directory: Path) -> str:
    return f"""## Training, on the server

```sh
fedcmi deploy run {directory} --run-dir RUN_DIR
FLWR_HOME={directory}/server flwr supernode list {CONNECTION}
fedcmi report RUN_DIR
```

`server/run.toml` holds the keys of the run-config that differ from `pyproject.toml`; `--recipe FILE` and `--set key=value`
override them. One line a round; the exit status is 0 only if the run completed. Start it in tmux or as a service: its end
stops the run. After a stop, or when the server went down:

```sh
fedcmi deploy run {directory} --run-dir RUN_DIR --resume
```

goes on from the newest checkpoint. What a method keeps on nodes begins anew (see "Resume" in the project's README).
"""


def _machines() -> str:
    return """## ARM64 and machines without a GPU

Every dependency, torch 2.11 included, has a wheel for 64-bit ARM Linux with glibc 2.28 or newer (Raspberry Pi OS 64-bit,
Ubuntu, Debian; not Alpine) and Python 3.11: found by resolving them with wheels only. They were not run on ARM here.
On every Linux, x86-64 and ARM64, the torch 2.11 of the standard package index asks for NVIDIA's CUDA 13 libraries, several
GB that a machine without a GPU never uses: install PyTorch's CPU build of the same version first and the rest after it
(not tried here). Without a GPU a node trains on the CPU by itself; `device = "cpu"` in `nodes.toml` makes sure of it.
"""


def _notes(plan: Plan) -> str:
    text = """## To know

- Flower starts a new process for every message on a device, which imports torch anew.
- A device that loses its network comes back by itself; one that was killed is missed after about a minute.
"""
    if plan.secure:
        text += """- Clocks: certificates are valid from a day before they were made; a device whose clock is behind that is not let in.
- Flower has no accounts here: whoever reaches the port and trusts `ca.crt` can also register keys and start runs, as
  `flwr` does above. Let only devices and operators reach it (firewall, VPN).
"""
    return text
