"""The proxy: what devices can reach of the server.

Nginx in front of the SuperLink, which lets through what a SuperNode needs.

A SuperLink serves nodes and operators on one port and asks nobody who submits a run. Behind this
proxy it listens on loopback only, and a device reaches the calls of a SuperNode, one by one, and
the registrar.
"""

import os
import shutil
import signal
from pathlib import Path

import psutil

from server_app.deploy.deployment import Deployment, DeploymentError

CONFIGURATION = "nginx.conf"
CERTIFICATE = "server.pem"
"""The server's private key and certificate, in one file."""
INNER = "inner"
"""Directory of the certificate between proxy and SuperLink, on loopback."""
PID = "proxy.pid"
FLEET_CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a registered SuperNode calls."""
OPEN_CALLS = ("register-node", "unregister-node")
"""What one calls besides that has no key: in a deployment without security."""
LARGEST_MESSAGE = "32m"
"""Of one request. Flower sends arrays in pieces of 5 MB, whatever the model's size."""
LARGEST_ENROLMENT = "64k"


def nginx_configuration(
    deployment: Deployment,
    files: Path,
    state: Path,
    listen: str,
    superlink: str,
    registrar: str,
    workers: str = "",
) -> str:
    """Return the proxy's configuration.

    Parameters
    ----------
    deployment
        The deployment.
    files
        Directory with the certificates.
    state
        Directory that it may write to.
    listen
        "host:port" for devices.
    superlink
        "host:port" of the SuperLink.
    registrar
        "host:port" of the registrar.
    workers
        User that its workers run as, where it is started by root; empty: whoever starts it.

    Returns
    -------
    The text of ``nginx.conf``.
    """
    calls = FLEET_CALLS if deployment.secure else (*FLEET_CALLS, *OPEN_CALLS)
    scheme = "https" if deployment.secure else "http"
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f'    {kind}_temp_path "{state}/nginx/{kind}";' for kind in temporary)

    return f"""# Written by `fedcmi deploy`. Whatever is not named here is refused.
{f"user {workers};" if workers else ""}
pid "{state}/{PID}";
error_log stderr error;
worker_processes auto;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    server_tokens off;
{folders}
    client_header_timeout 20s;
    client_body_timeout 60s;
    send_timeout 60s;
    keepalive_timeout 75s;
    limit_conn_zone $binary_remote_addr zone=peers:10m;
    limit_req_zone $binary_remote_addr zone=joins:10m rate=2r/s;
    upstream superlink {{ server {superlink}; }}
    upstream registrar {{ server {registrar}; }}
    server {{
        listen {listen}{" ssl" if deployment.secure else ""};
{_tls(files) if deployment.secure else ""}        limit_conn peers 1024;
        client_max_body_size 1k;
        proxy_http_version 1.1;
        proxy_read_timeout 300s;
        proxy_set_header X-Real-IP $remote_addr;
        location / {{ deny all; }}
        location = /health {{ proxy_pass {scheme}://superlink/health; }}
        location ~ ^/v1/fleet/({"|".join(calls)})$ {{
            client_max_body_size {LARGEST_MESSAGE};
            proxy_pass {scheme}://superlink$uri;
        }}
{_enrolment() if deployment.secure else ""}    }}
}}
"""


def _tls(files: Path) -> str:
    return f"""        ssl_certificate "{files}/{CERTIFICATE}";
        ssl_certificate_key "{files}/{CERTIFICATE}";
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_trusted_certificate "{files}/{INNER}/ca.crt";
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
"""


def _enrolment() -> str:
    return f"""        location ~ ^/fedcmi/(ca.crt|report|upgrade)$ {{
            client_max_body_size {LARGEST_ENROLMENT};
            proxy_pass http://registrar$uri;
        }}
        location = /fedcmi/join {{
            client_max_body_size {LARGEST_ENROLMENT};
            limit_req zone=joins burst=30 nodelay;
            limit_req_status 429;
            proxy_pass http://registrar/fedcmi/join;
        }}
        location = /fedcmi/upgrade.whl {{
            limit_req zone=joins burst=30;
            limit_req_status 429;
            proxy_pass http://registrar/fedcmi/upgrade.whl;
        }}
"""


def nginx_command(state: Path) -> list[str]:
    """Return the arguments of nginx, in the foreground.

    Parameters
    ----------
    state
        Directory with ``nginx.conf``.

    Returns
    -------
    Program and arguments; the program's directory is left out.
    """
    return [
        "nginx",
        "-e",
        "stderr",
        "-p",
        str(state),
        "-c",
        str(state / CONFIGURATION),
        "-g",
        "daemon off;",
    ]


def nginx_program() -> str:
    """Return where this machine has nginx.

    Returns
    -------
    Its path.

    Raises
    ------
    DeploymentError
        It has none.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("nginx", path=places)
    if found is None:
        raise DeploymentError(
            "nginx is missing, behind which the SuperLink is out of the devices' reach: `apt-get "
            "install nginx-light` (its own service is not needed: `systemctl disable --now "
            "nginx`)."
        )

    return found


def reload(state: Path) -> bool:
    """Make the proxy reload its configuration and certificate; open connections continue.

    Parameters
    ----------
    state
        As given to :func:`nginx_configuration`.

    Returns
    -------
    Whether it runs.

    Raises
    ------
    DeploymentError
        It is somebody else's.
    """
    try:
        process = psutil.Process(int((state / PID).read_text(encoding="utf-8")))
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError):
        return False

    if "nginx" not in process.name():  # it died, and somebody else has its number now
        return False

    try:
        process.send_signal(signal.SIGHUP)
    except psutil.AccessDenied as error:
        raise DeploymentError(
            f"the certificate is new, but the proxy (process {process.pid}) runs as "
            f"{process.username()} and takes no signal from you: `sudo systemctl reload "
            "fedcmi-proxy`."
        ) from error

    return True
