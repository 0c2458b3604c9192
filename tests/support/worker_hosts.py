"""Workers on hosts of their own: each in a separate network, with its own host name and process numbers.

Linux namespaces make one machine look like several: a worker in one of them cannot see the processes of the others, so
it can only tell from the ledger whether they are alive. Needs root, `unshare` and `ip`; `absent_reason` says what is
missing, and without it workers run on this machine.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
NETWORK = "198.18.0.0/15"  # reserved for tests of network equipment (RFC 2544)
_NEW_HOST = ("unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")


@dataclass
class WorkerHost:
    """A host with one worker.

    Attributes:
        name: its host name; "" if the worker runs on this machine.
        gateway: this machine's address, as seen from that host.
        process: the first process of the host.
        network: keeps the network of a separate host, so that the connections of a killed worker are closed properly.
    """

    name: str
    gateway: str
    process: subprocess.Popen[bytes]
    network: int | None = None

    @property
    def worker_pid(self) -> int:
        """The worker's process number on this machine."""
        if not self.name:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def is_at(self, host: str, process: str) -> bool:
        """Whether a heartbeat with these values is this worker's."""
        return host == self.name if self.name else process.startswith(f"{self.process.pid}:")

    def kill(self) -> None:
        """End the worker like a power cut."""
        os.kill(self.worker_pid, signal.SIGKILL)
        self.process.wait()


def absent_reason() -> str:
    """Why no separate hosts can be made here; "" if they can."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return "separate hosts need root on Linux"
    missing = [tool for tool in ("unshare", "ip", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run([*_NEW_HOST, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


@contextmanager
def running(count: int, environ: Mapping[str, str], folder: Path, *, separate: bool) -> Iterator[list[WorkerHost]]:
    """Run `python -m core.jobs.worker` on `count` hosts until the block ends.

    Args:
        environ: variables of each worker; `{number}`, `{gateway}` and `{home}` in their values are filled in.
        folder: for their home folders and logs.
        separate: whether each gets a host of its own.
    """
    hosts: list[WorkerHost] = []
    block = random.SystemRandom().randrange(256)  # others may run the same test at the same time
    try:
        for number in range(1, count + 1):
            gateway = f"198.18.{block}.{4 * number + 1}" if separate else "127.0.0.1"
            home = folder / f"worker-{number}"
            own = {key: value.format(number=number, gateway=gateway, home=home) for key, value in environ.items()}
            with (folder / f"worker-{number}.log").open("wb") as log:
                hosts.append(_host(number, gateway, own, log.fileno(), separate=separate))
        yield hosts
    finally:
        for host in hosts:
            host.process.kill()  # and with it the only process of a separate host
            host.process.wait()
            if host.network is not None:
                os.close(host.network)


def _host(number: int, gateway: str, environ: Mapping[str, str], log: int, *, separate: bool) -> WorkerHost:
    name = f"worker-{number}" if separate else ""
    command: tuple[str, ...] = (sys.executable, "-m", "core.jobs.worker")
    if separate:
        script = 'hostname "$0" && ip link set lo up && read -r connected && exec "$@"'
        command = (*_NEW_HOST, "sh", "-c", script, name, *command)
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stderr=log)
    network = None
    if separate:
        until(lambda: _network(process.pid) != _network(os.getpid()), "a network of its own")
        network = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        _connect(process.pid, gateway, f"fb{process.pid}")
        assert process.stdin is not None
        process.stdin.write(b"connected\n")
        process.stdin.flush()
    return WorkerHost(name, gateway, process, network)


def _network(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def _connect(pid: int, gateway: str, device: str) -> None:
    """A cable between this machine and the host: both ends disappear with the host."""
    own = gateway[: gateway.rindex(".") + 1] + str(int(gateway.rpartition(".")[2]) + 1)
    inside = ("nsenter", "--target", str(pid), "--net")
    for command in (
        ("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(pid)),
        ("ip", "addr", "add", f"{gateway}/30", "dev", device),
        ("ip", "link", "set", device, "up"),
        (*inside, "ip", "addr", "add", f"{own}/30", "dev", "eth0"),
        (*inside, "ip", "link", "set", "eth0", "up"),
    ):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
