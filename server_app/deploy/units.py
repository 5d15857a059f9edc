"""systemd units that may do what a service needs, and nothing else."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server_app.deploy.services import QUIET

HARDENING = """NoNewPrivileges=true
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
UMask=0077
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=true
ProtectProc=invisible
ProtectClock=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectControlGroups=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
RemoveIPC=true
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
"""
"""As far as torch and Flower can live with it; systemd-analyze's figure for what is left is in
the tests."""
NO_DEVICES = "PrivateDevices=true\n"
GPU_ONLY = "DevicePolicy=closed\nDeviceAllow=char-nvidia* rw\n"


@dataclass(frozen=True)
class Unit:
    """The settings that differ from unit to unit."""

    description: str
    """For ``systemctl status``."""
    user: str
    """Whom the service runs as; never root."""
    command: Sequence[str]
    """Absolute path of the program, and its arguments."""
    writable: Sequence[Path] = ()
    """Where it may write besides /tmp and /var/lib/fedcmi."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables than it always has."""
    memory: str = "80%"
    """What it may take at most."""
    gpu: bool = False
    """It may use the machine's GPUs."""
    port: int = 65535
    """The lowest one that it listens on."""
    reload: str = ""
    """Command that makes it read its files again."""
    notifies: bool = False
    """It tells systemd that it lives; silent for too long, it is started again."""


def systemd_unit(unit: Unit) -> str:
    """Return a unit that starts with the machine and again after a crash.

    Parameters
    ----------
    unit
        What is to be started.

    Returns
    -------
    The unit's text.
    """
    program = Path(unit.command[0]).parent
    variables = {"PATH": f"{program}:/usr/local/bin:/usr/bin:/bin", **QUIET, **unit.environment}
    environment = "\n".join(f'Environment="{name}={value}"' for name, value in variables.items())
    watched = (
        "Type=notify\nNotifyAccess=main\nWatchdogSec=180\nTimeoutStartSec=120\n"
        if unit.notifies
        else ""
    )
    reload = f"ExecReload={unit.reload}\n" if unit.reload else ""
    writable = "".join(f'ReadWritePaths="{path}"\n' for path in unit.writable)
    capabilities = "CAP_NET_BIND_SERVICE" if unit.port < 1024 else ""

    return f"""[Unit]
Description={unit.description}
Wants=network-online.target time-sync.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
User={unit.user}
{environment}
ExecStart={shlex.join(unit.command)}
{reload}{watched}Restart=always
RestartSec=10
StateDirectory=fedcmi
StateDirectoryMode=0700
MemoryMax={unit.memory}
TasksMax=4096
LimitNOFILE=16384
LimitCORE=0
{writable}{GPU_ONLY if unit.gpu else NO_DEVICES}{HARDENING.format(capabilities=capabilities)}
[Install]
WantedBy=multi-user.target
"""
