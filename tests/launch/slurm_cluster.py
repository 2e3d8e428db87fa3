"""A real SLURM with accounting on this machine, in one folder: two nodes of four cores, everything run by this user on free ports.

    python -m tests.launch.slurm_cluster up FOLDER      # prints what to export
    python -m tests.launch.slurm_cluster down FOLDER

Needs Debian's packages slurmctld, slurmd, slurm-client, slurmdbd, munge and mariadb-server, which `scripts/test --all` installs.
Nothing of the system's own configuration is read or written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "munged", "mariadbd", "mariadb-install-db")
#: Daemons in the order in which they start; they end in the reverse one.
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd-n1", "slurmd-n2")
NODES = ("n1", "n2")
PATIENCE = 90.0
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmctldPort={ports[0]}
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[1]}
AccountingStoragePass={root}/munge/socket
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldTimeout=120
SlurmdTimeout=120
MessageTimeout=60
KillWait=60
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=50 PreemptMode=OFF
PartitionName=low Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=100 PreemptMode=OFF
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[1]}
SlurmUser={user}
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[4]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def missing_programs() -> list[str]:
    """What has to be installed first."""
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]


@dataclass(frozen=True)
class Cluster:
    """A cluster in the folder `root`, whose path is to be short: sockets lie in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """With which the commands of SLURM find it."""
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": SYSTEM_PATH}

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a command of SLURM."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def up(self) -> None:
        """Write the configuration, start all daemons, wait for both nodes.

        Raises:
            RuntimeError: naming the daemon that does not answer, with its last lines.
        """
        for name in ("munge", "db", "state", "log", "run", *(f"spool/{node}" for node in NODES)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").chmod(0o755)
        password = secrets.token_hex(16)
        facts = {"root": self.root, "host": socket.gethostname().split(".")[0], "user": _user(), "ports": _ports(5), "password": password}
        _private(self.root / "slurm.conf", SLURM_CONF.format(**facts).encode(), mode=0o644)
        _private(self.root / "slurmdbd.conf", SLURMDBD_CONF.format(**facts).encode())
        _private(self.root / "munge/key", secrets.token_bytes(256))
        self._start_munge()
        self._start_database(facts["ports"][4], password)
        self._start("slurmdbd", "slurmdbd", "-D")
        self._until("slurmdbd", lambda: self.run("sacctmgr", "-n", "list", "user", check=False).strip() != "")
        self.run("sacctmgr", "-i", "add", "cluster", "tests")
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        self._until("slurmd-n1", lambda: self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False).strip() == "2")

    def down(self) -> None:
        """End all jobs, then all daemons."""
        if (self.root / "run/slurmctld.pid").exists():
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel", "--user", _user())
                self._until("slurmctld", lambda: not self.run("squeue", "-h").strip(), patience=15)
        for name in reversed(DAEMONS):
            place = self.root / f"run/{name}.started"
            if not place.exists():
                continue
            pid = int(place.read_text())
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _ended(pid, 10):
                    break
            place.unlink()

    def accounting(self, job: str, fields: str = "State,ExitCode", *, all_lives: bool = False) -> list[list[str]]:
        """Rows of sacct: of a job as it is now, or of each of its lives, the first one first."""
        text = self.run("sacct", "-n", "-X", "-P", *(["-D"] if all_lives else []), "-j", job, "-o", fields)
        return [line.split("|") for line in text.splitlines()]

    def _start_munge(self) -> None:
        place = self.root / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={place / name}" for option, name in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self._until("munged", (place / "socket").exists)

    def _start_database(self, port: int, password: str) -> None:
        data, user, where = self.root / "db", _user(), self.root / "run/db.sock"
        if not (data / "mysql").exists():
            self.run(
                "mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"
            )  # fmt: skip
        options = [f"--datadir={data}", f"--socket={where}", "--bind-address=127.0.0.1", f"--port={port}", f"--user={user}"]
        self._start(
            "mariadbd", "mariadbd", "--no-defaults", *options, "--innodb-buffer-pool-size=32M", "--skip-log-bin", "--skip-name-resolve"
        )
        ask = ("mariadb", "--no-defaults", f"--socket={where}", "-u", "root", "-e")
        self._until("mariadbd", lambda: where.exists() and self.run(*ask, "select 1", check=False) != "")
        grant = f"create or replace user slurm@'127.0.0.1' identified by '{password}'; grant all on slurm_acct_db.* to slurm@'127.0.0.1'"
        self.run(*ask, grant)

    def _start(self, name: str, *command: str) -> None:
        log = (self.root / f"log/{name}.out").open("ab")
        program = shutil.which(command[0], path=SYSTEM_PATH)
        assert program is not None
        popen = subprocess.Popen(
            [program, *command[1:]],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.root,
            start_new_session=True,
        )
        log.close()
        (self.root / f"run/{name}.started").write_text(str(popen.pid))

    def _until(self, name: str, ready: Callable[[], object], *, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if ready():
                return
            time.sleep(0.1)
        logs = [
            line for place in sorted((self.root / "log").glob(f"{name}.*")) for line in place.read_text(errors="replace").splitlines()[-8:]
        ]
        raise RuntimeError(f"{name} did not answer within {patience:.0f} s. Its last lines:\n" + "\n".join(logs))


def _ended(pid: int, seconds: float) -> bool:
    """Whether a process is gone within some time; one of our own has to be waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _ports(count: int) -> list[int]:
    """Free ports, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _private(place: Path, content: bytes, *, mode: int = 0o600) -> None:
    place.unlink(missing_ok=True)
    place.touch(mode=mode)
    place.write_bytes(content)
    place.chmod(mode)


def main() -> int:
    """`up FOLDER` or `down FOLDER`."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        print(__doc__, file=sys.stderr)
        return 2
    cluster = Cluster(Path(sys.argv[2]).resolve())
    if sys.argv[1] == "down":
        cluster.down()
        return 0
    missing = missing_programs()
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    began = time.monotonic()
    try:
        cluster.up()
    except RuntimeError:
        cluster.down()
        raise
    print(f"# up after {time.monotonic() - began:.1f} s")
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
