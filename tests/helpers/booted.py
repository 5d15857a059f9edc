"""A machine under systemd, for as long as a test needs one.

It is a container of Linux namespaces with systemd as process 1: its file system is this machine's
own, and what is written goes to memory; its network is its own loopback; its control groups are
below those of the test. Nothing is downloaded, and nothing outside of it changes.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
import uuid
from pathlib import Path

import psutil
import pytest
from sites import require

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "runuser": "util-linux",
    "setpriv": "util-linux",
    "systemctl": "systemd",
    "nginx": "nginx-light",
    "curl": "curl",
}
"""What it needs, and where Debian has it."""
SYSTEMD = Path("/usr/lib/systemd/systemd")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 300.0
"""Seconds that it may take to start or to end."""
PREPARED = "the machine is prepared"
"""Said before systemd starts: what goes wrong earlier is this machine's, later the units'."""
BOOT = f"""
set -eu
root=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/written" "$root/work" "$root/all"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/written,workdir=$root/work" "$root/all"
cd "$root/all"

# As systemd-nspawn does it: what belongs to the kernel of both is read-only
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty
do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

# Of the services that this machine has, only the journal
mount -t tmpfs -o mode=755 tmpfs etc/systemd/system
for wanted in usr/lib/systemd/system/*.target.wants
do mount -t tmpfs -o mode=755 tmpfs "$wanted"
done
ln -s ../systemd-journald.service usr/lib/systemd/system/sysinit.target.wants/

# Who follows the guides is root already
cat > usr/local/bin/sudo <<'END'
#!/bin/sh
if [ "$1" = -u ]; then user=$2; shift 2; exec runuser -u "$user" -- "$@"; fi
exec "$@"
END
chmod +x usr/local/bin/sudo
: > etc/fstab
chmod o+x root

mkdir -p old
pivot_root . old
cd /
umount -l /old
echo {PREPARED}
exec env -i container=test "PATH={PATH}" {SYSTEMD} --system --unit=multi-user.target \
    --log-target=journal --show-status=no </dev/null
"""


class Booted:
    """A machine under systemd.

    Parameters
    ----------
    root
        An empty directory.
    """

    def __init__(self, root: Path) -> None:
        _require()
        self._log, self._groups = root / "console.txt", _make_groups(f"fedcmi-{uuid.uuid4().hex}")
        (root / "all").mkdir()
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        command += ["--cgroup", "--net", "sh", "-c", BOOT, "boot", str(root / "all")]
        enter = 'for group in "$@"; do echo $$ > "$group/cgroup.procs" || exit 1; done'
        with self._log.open("wb") as log:
            # It ends with the test's process, however that ends
            self._outer = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "sh",
                    "-c",
                    f"{enter}; exec {shlex.join(command)}",
                    "enter",
                    *self._groups,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_it_runs()
        except BaseException:
            self.stop()
            raise

    @property
    def files(self) -> Path:
        """Return where the test finds the machine's files."""
        return Path(f"/proc/{self._first()}/root")

    def run(self, text: str, given: str = "", user: str = "root") -> str:
        """Run a shell script, each of whose commands must succeed, and return what it prints."""
        done = self.tried(text, given, user)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def tried(
        self, text: str, given: str = "", user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script, whatever comes of it."""
        inside = ["nsenter", "--target", str(self._first()), "--all", "--root", "--wd"]
        inside += ["env", "-i", f"PATH={PATH}:/opt/fedcmi/.venv/bin", "LANG=C.UTF-8"]
        as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
        inside += [*as_user, "sh", "-euc", f"cd /\n{text}"]
        return subprocess.run(
            inside, input=given, capture_output=True, text=True, timeout=900.0, check=False
        )

    def shown(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run(f"systemctl show --value --property {name} {unit}").strip()

    def journal(self, unit: str = "") -> str:
        """Return the end of the journal, of one unit or of all."""
        chosen = f"--unit {unit}" if unit else ""
        return self.tried(f"journalctl --no-pager --lines 60 {chosen}").stdout

    def stop(self) -> None:
        """End everything in it, and remove its control groups."""
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, IndexError):
            os.kill(self._first(), signal.SIGKILL)  # process 1 takes all others along

        self._outer.kill()
        self._outer.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        for group in self._groups:
            while not _removed(Path(group)):
                assert time.monotonic() < deadline, f"{group}: still in use"
                time.sleep(0.1)

    def _first(self) -> int:
        """Return the number that its process 1 has outside."""
        return psutil.Process(self._outer.pid).children()[0].pid

    def _wait_until_it_runs(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._outer.poll() is None:
            said = self._log.read_text(encoding="utf-8", errors="replace")
            if PREPARED in said:
                state = self.tried("systemctl is-system-running || true").stdout.strip()
                if state == "running":
                    return
            time.sleep(0.2)

        said = self._log.read_text(encoding="utf-8", errors="replace")
        if PREPARED not in said:
            pytest.skip(f"this machine allows no namespaces with a systemd of their own: {said}")

        pytest.fail(f"systemd does not run:\n{said}")


def _require() -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces with a systemd of their own need root")

    for name, package in PROGRAMS.items():
        require(name, package)


def _make_groups(name: str) -> list[str]:
    """Make a control group below the test's own in each hierarchy; skip where that is forbidden."""
    made: list[str] = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, own = line.split(":", 2)
        place = _mounted(number, controllers)
        if place is None:
            continue

        group = place / own.lstrip("/") / name
        try:
            group.mkdir()
        except OSError as error:
            for other in made:
                Path(other).rmdir()

            pytest.skip(f"this machine lets the test make no control group: {error}")

        made.append(str(group))
        for setting in ("cpuset.cpus", "cpuset.mems"):  # of the first version, empty at first
            if controllers == "cpuset" and (group / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())

    if not made:
        pytest.skip("this machine has no control groups")

    return made


def _mounted(number: str, controllers: str) -> Path | None:
    """Return where a hierarchy of control groups is mounted; None: nowhere."""
    wanted = set(controllers.split(",")) - {""}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and number == "0":
            return Path(place)
        if kind == "cgroup" and wanted and wanted <= set(options.split(",")):
            return Path(place)

    return None


def _removed(group: Path) -> bool:
    """Remove a control group with all below it, unless something still runs there."""
    try:
        for below, _, _ in os.walk(group, topdown=False):
            Path(below).rmdir()
    except OSError:
        return False

    return True
