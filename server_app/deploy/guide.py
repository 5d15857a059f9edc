"""The guides of a deployment.

One for the server, and a short one for each device, with every command in order.
"""

from pathlib import Path
from shlex import quote

from server_app.deploy import compose, services
from server_app.deploy.certificates import AUTHORITY_DAYS, SERVER_DAYS
from server_app.deploy.containers import USER
from server_app.deploy.deployment import Deployment, Device
from server_app.figures.markdown import markdown_table

LISTED = 50
"""So many devices are listed in the server's guide; of more it names the directory."""


def for_the_server(deployment: Deployment, directory: Path) -> str:
    """Return the server's guide.

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
    here = quote(str(directory))
    parts = [_head(deployment, directory), _server(deployment, directory)]
    parts += [_devices(here) if deployment.secure else _open_devices(here)]
    parts += [
        _training(here),
        _life(here) if deployment.secure else "",
        _containers(deployment, directory),
        MACHINES,
        _notes(deployment),
    ]

    return "\n".join(part for part in parts if part)


def for_a_device(deployment: Deployment, node: Device) -> str:
    """Return a device's guide.

    Parameters
    ----------
    deployment
        The deployment.
    node
        The device.

    Returns
    -------
    Markdown.
    """
    home, programs = services.DEVICE_HOME, services.DEVICE_PROGRAMS
    join = f"sudo -u fedcmi {programs}/fedcmi deploy join - --home {home}"
    if not deployment.secure:
        join = f"sudo install -o fedcmi -m 600 fedcmi-node/* {home}"
    elif node.public_key is not None:
        join = (
            f"sudo install -o fedcmi -m 600 fedcmi-node/* {home}\n"
            f"sudo install -o fedcmi -m 600 PATH_OF_THE_PRIVATE_KEY {home}/key"
        )

    writes = "".join(f"sudo install -d -o fedcmi -m 700 {quote(path)}\n" for path in node.written)
    copied = "Copy this directory to the device, as `fedcmi-node`.\n\n"
    if "deploy join" in join:
        copied = (
            "`deploy join -` waits for the device's token, which so gets into no history and no "
            "log.\n\n"
        )

    return f"""# Device {node.name}

It owns {", ".join(node.modalities)} and trains for the server `{deployment.address}`. It needs Linux, this
project in `{programs.parent}` (`make install` in a checkout at `{programs.parent.parent}`, or its wheel with the extra
`all`), and its prepared data at `{node.data}`, readable for the user `fedcmi`. It opens no port.

{copied}```sh
sudo useradd --system --home-dir {services.DEVICE_STATE} fedcmi
sudo install -d -o fedcmi -m 700 {home}
{writes}{join}
sudo -u fedcmi {programs}/fedcmi deploy check {home}
sudo install -m 644 {home}/fedcmi-supernode.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now fedcmi-supernode
journalctl -u fedcmi-supernode --no-pager --lines 5
```

"SuperNode ID" in the last command's output means that it was let in. `Containerfile` is the same service in a
container.
{_new_version(home, programs) if deployment.secure else ""}"""


def _new_version(home: Path, programs: Path) -> str:
    return f"""
## A new version

When the server offers one (`fedcmi deploy upgrade` there):

```sh
sudo -u fedcmi {programs}/fedcmi deploy fetch {home}
sudo sh -c '{programs}/python -m pip install "$(ls {home}/upgrade/*.whl)[all]"'
sudo systemctl restart fedcmi-supernode
```

An environment that uv made has no pip: `uv pip install --python {programs}/python` takes its place. Restart the
service between runs: a round that is under way misses the device.
"""


def _head(deployment: Deployment, directory: Path) -> str:
    head = ["node", "partition-id", "modalities", "prepared data, on the device"]
    nodes = [
        [node.name, str(node.partition_id), ", ".join(node.modalities), f"`{node.data}`"]
        for node in deployment.active[:LISTED]
    ]
    listed = "\n".join(markdown_table(head, nodes))
    if len(deployment.active) > LISTED:
        listed += (
            f"\n\nand {len(deployment.active) - LISTED} more: `nodes/` has a directory for each."
        )

    security = (
        "**Insecure**: no encryption, and whoever reaches the port can join. For a closed "
        "network only."
    )
    if deployment.secure:
        security = """TLS and node authentication are on: devices check the server's certificate by `ca.crt`, and the
server lets in only nodes whose public key is registered."""

    commands = "\n".join(
        f"fedcmi deploy {step} {quote(str(directory))}" for step in ("up", "run", "status", "down")
    )

    return f"""# A FedCMI deployment

The server is `{deployment.address}`, with this directory at `{directory}`.
{security}
An nginx in front of the SuperLink lets devices do what a SuperNode does, and nothing else: they submit no runs.

{listed}

Rehearse it on one machine first, over loopback:

```sh
{commands}
```
"""


def _server(deployment: Deployment, directory: Path) -> str:
    files = directory / "server"
    check = (
        f"curl --fail --cacert {quote(str(files / 'ca.crt'))} https://"
        if deployment.secure
        else "curl --fail http://"
    )
    units = " ".join(f"fedcmi-{name}" for name in deployment.server_processes)
    secrets = f"""
`{files}/ca.key` signs certificates and is not needed to run: move it to a place off the network. `deploy renew`
takes it with `--authority-key`.
"""

    return f"""## Server

It needs Linux, Python 3.11, nginx (`apt-get install nginx-light`, without its own service: `systemctl disable --now
nginx`), this project (`make install` in a checkout, or its wheel with the extra `all`), its prepared test data of all
modalities at `{deployment.data}`, and one open port, {deployment.port}. Its services run as the user named in the
units, who must own this directory, and may write only there: run directories belong below `{directory / "runs"}`.
{secrets if deployment.secure else ""}
```sh
sudo cp {quote(str(files))}/fedcmi-*.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now {units}
{check}{deployment.address}/health
```
"""


def _devices(here: str) -> str:
    return f"""## Devices

A device makes its key itself and shows a token, which is good for one device and 24 hours (`--hours`):

```sh
fedcmi deploy token {here} NAME
fedcmi deploy token {here} --all > tokens.csv
```

What to do on the device is in `nodes/NAME/README.md`. Devices whose public keys are in `nodes.toml` need no token; one
command registers them all:

```sh
fedcmi deploy register {here}
```
"""


def _open_devices(here: str) -> str:
    return f"""## Devices

What to do on a device is in `nodes/NAME/README.md` below {here}.
"""


def _training(here: str) -> str:
    run = f"fedcmi deploy run {here} --run-dir RUN_DIR"
    return f"""## Training, on the server

```sh
{run}
fedcmi deploy status {here}
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


def _life(here: str) -> str:
    return f"""## Years

| what happens | what to do |
|---|---|
| a device more | `fedcmi deploy add {here} NAME --modalities audio,visual --data DIR`, then a token |
| a device is lost or stolen | `fedcmi deploy revoke {here} NAME`: out at once, and for ever with that key |
| a device is exchanged | `fedcmi deploy replace {here} NAME`: the same name and partition id, a token for the new one |
| a certificate ends within 30 days (`status` says so) | `fedcmi deploy renew {here}`: no restart, and runs go on |
| the authority ends, or its key got out | `renew --new-authority`; a while later `renew --switch-authority` |
| a new version of this project | on the server first; then `fedcmi deploy upgrade {here} WHEEL` offers it |
| which version each device runs | `fedcmi deploy upgrade {here}` |
| the server is moved | `fedcmi deploy backup {here} FILE.tar.gz`; unpack it at the same path on the new machine |

Certificates are valid from a day before they were made: the server's for {SERVER_DAYS} days, the authority's for
{AUTHORITY_DAYS}. An authority is exchanged in two steps, so that devices hear of the next one by the present one,
which they trust; the second step is refused while a device has not, and `--force` leaves that one behind.
`server/audit.jsonl` says who did what to whom, and when. `server/monitoring` has a scrape configuration for Prometheus,
alert rules and a dashboard for Grafana; the metrics are on loopback.
"""


def _containers(deployment: Deployment, directory: Path) -> str:
    head = "## In containers, all on one machine\n"
    if not compose.is_possible(deployment):
        return f"""{head}
There is no Compose file: containers find the server by a name, and `{deployment.host}` is none that they could. It is
written where the address in `nodes.toml` has one, like `fedcmi.example.org:8000`.
"""

    here, folder = quote(str(directory)), quote(str(directory / compose.COMPOSE))
    docker = f"docker compose -f {quote(str(directory / compose.COMPOSE / compose.FILE))}"
    home, (user, group) = services.DEVICE_HOME, compose.owner()
    join = f"""{docker} exec -T superlink fedcmi deploy token {here} NAME \\
  | {docker} run --rm -T --no-deps NAME fedcmi deploy join - --home {home}
"""
    certificate = (
        f" After `deploy renew`, `{docker} restart\nproxy` has it shown; runs go on."
        if deployment.secure
        else ""
    )

    return f"""{head}
`{compose.COMPOSE}/{compose.FILE}` has the server and all devices on this machine, each with the data that it names.
This directory must belong to user {user}, group {group} (`sudo chown -R {user}:{group} {here}`),
and devices' data be readable for user {USER}. Devices keep their keys and state in volumes. One whose key is in
`nodes.toml` is brought key and `nodes/NAME` there; the others restart until they have joined.

```sh
cp dist/fedcmi_flwr-*.whl {folder}
{docker} build
{docker} up -d
{join if deployment.secure else ""}{docker} exec superlink fedcmi deploy run {here} --run-dir {here}/runs/first
```

The server's other commands run in the same way, by `exec superlink`.{certificate}
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

- Services and containers run the commands that the rehearsal runs. Our tests start the units under systemd where the
  machine lets them; containers they only compare with the units.
- Flower starts a new process for every message on a device, which imports torch anew.
- A device that loses its network, or whose server is restarted, comes back by itself. One that was killed is missed
  after about a minute, and until then a second one with its key is turned away (code 305): its service tries again.
"""
    if deployment.secure:
        text += """- A device whose clock is more than 4 s ahead of the server's, or 290 s behind, is not let in: its
  service says by how much the clock differs, and tries again.
- Flower has no accounts on the server: whoever has an account there can submit runs. `SECURITY.md` says who must be
  trusted for what.
"""

    return text
