"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, in its own folder.

Nothing under /etc is read or written. Debian's packages `slurm-wlm` and `munge` are needed, and
root (munged and slurmd insist). With `accounting`, slurmdbd and MariaDB are started too, so that
`sacct` knows ended jobs.

    python tests/support/slurm_cluster.py FOLDER [--accounting]   print SLURM_CONF, run until ^C
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb")
_NODES = ("first", "second")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/bin"


def why_not(*, accounting: bool = False) -> str | None:
    """Why no cluster can be started here; None if it can."""
    if os.geteuid() != 0:
        return "a Slurm on this machine needs root"
    wanted = (*_NEEDED, *(_FOR_ACCOUNTING if accounting else ()))
    missing = [name for name in wanted if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Cluster:
    """Two nodes, a partition `main` whose jobs are requeued for those of `urgent`."""

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        """Start every daemon and wait until both nodes are idle."""
        self.folder, self.accounting = folder, accounting
        self._children: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool", "log", "munge"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf), "PATH": _PATH}
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._start_munge()
        ports = _free_ports(5)
        self.conf.write_text(self._configuration(ports), encoding="utf-8")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        if self.accounting:
            self._start_accounting(ports[4])
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        for name in _NODES:
            self._daemon("slurmd", "-D", "-f", str(self.conf), "-N", name)
        _wait(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 4)

    def run(self, *command: str) -> str:
        """Return what one of Slurm's commands prints; empty if it fails."""
        ended = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return ended.stdout if ended.returncode == 0 else ""

    def stop(self) -> None:
        """End the daemons in reverse order."""
        with contextlib.suppress(FileNotFoundError):
            self.run("scancel", "-u", "root")
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _daemon(self, name: str, *arguments: str, **environment: str) -> None:
        log = self.folder / "log" / f"{name}-{len(self._children)}.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                [name, *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
            )  # fmt: skip
        self._children.append(child)

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._socket = self.folder / "munge" / "socket"
        # --force: the folder may lie below one that everybody may write.
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={self._socket}", f"--key-file={key}",
            f"--pid-file={self.folder / 'munge' / 'pid'}",
            f"--seed-file={self.folder / 'munge' / 'seed'}",
            f"--log-file={self.folder / 'log' / 'munged.log'}",
        )  # fmt: skip
        _wait(self._socket.exists)

    def _start_accounting(self, port: int) -> None:
        data, where = self.folder / "mariadb", self.folder / "mariadb-run"
        where.mkdir()
        with (self.folder / "log" / "install.log").open("wb") as log:
            subprocess.run(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                 "--auth-root-authentication-method=socket"],
                stdout=log, stderr=log, check=True, env={**os.environ, "PATH": _PATH},
            )  # fmt: skip
        sock = where / "socket"
        # As root: only its owner may enter a test's folder.
        self._daemon(
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}",
            "--skip-networking", "--innodb-buffer-pool-size=32M",
        )  # fmt: skip
        sql = (
            "create database if not exists slurm_acct_db; "
            "create user if not exists slurm@localhost identified by 'slurm'; "
            "grant all on slurm_acct_db.* to slurm@localhost; select 'ready'"
        )
        ask = ("mariadb", "--no-defaults", "-S", str(sock), "-N", "-e", sql)
        _wait(lambda: "ready" in self.run(*ask))
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self._socket}\nDbdHost=localhost\n"
            f"DbdPort={port}\nSlurmUser=root\nPidFile={self.folder}/slurmdbd.pid\n"
            "StorageType=accounting_storage/mysql\nStorageUser=slurm\nStoragePass=slurm\n"
            "StorageLoc=slurm_acct_db\n",
            encoding="utf-8",
        )
        conf.chmod(0o600)
        # libmariadb finds the socket of `localhost` by this variable.
        self._daemon("slurmdbd", "-D", MYSQL_UNIX_PORT=str(sock))
        _wait(lambda: bool(self.run("sacctmgr", "-n", "list", "users")))
        self.run("sacctmgr", "-i", "add", "cluster", "tests")

    def _configuration(self, ports: list[int]) -> str:
        host = socket.gethostname().partition(".")[0]
        cores = os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 3
        accounting = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            accounting = (
                "AccountingStorageType=accounting_storage/slurmdbd\n"
                f"AccountingStorageHost=localhost\nAccountingStoragePort={ports[4]}\n"
                f"AccountingStoragePass={self._socket}"
            )
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} "
            f"RealMemory={memory} State=UNKNOWN"
            for name, port in zip(_NODES, ports[2:4], strict=True)
        )
        # cred_expire: a requeued job starts after seconds; by default it waits for two minutes.
        return f"""ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self._socket},cred_expire=3
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=2
MaxArraySize=9
PropagateResourceLimits=NONE
{accounting}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait(is_there, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > deadline:
            raise TimeoutError("a daemon of Slurm does not answer")
        time.sleep(0.1)


if __name__ == "__main__":
    reason = why_not(accounting="--accounting" in sys.argv)
    if reason is not None:
        sys.exit(reason)
    started = Cluster(Path(sys.argv[1]).absolute(), accounting="--accounting" in sys.argv)
    print(f"export SLURM_CONF={started.conf}", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        started.stop()
