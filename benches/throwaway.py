"""Throw-away processes for the benchmarks, and what is measured about them.

Owns: a directory that is removed at the end, PostgreSQL servers and proxies that cannot outlive the script, the CPU time that
a process has used, and one run of pgbench. What is compared, and how it is printed, is the scripts' own business.

Python 3 standard library only. Linux only: PR_SET_PDEATHSIG and /proc/PID/task/*/schedstat.
"""

import atexit
import ctypes
import dataclasses
import os
import pathlib
import platform
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


class Failure(Exception):
    """Something that the user of the script should read, without a traceback."""


class Nursery:
    """A directory, and the processes that run in it. Both are gone when the script is, however it ends."""

    def __init__(self, prefix):
        self.account = unprivileged_account()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        self.children = []
        if self.account:
            os.chown(self.directory, self.account.pw_uid, self.account.pw_gid)
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))

    def start(self, name, command, death_signal=signal.SIGKILL, stop_signal=signal.SIGTERM):
        """Starts a process with its output in NAME.log. It is sent death_signal if the script is killed outright."""
        with open(self.directory / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory, start_new_session=True, preexec_fn=lambda: self._become_child(death_signal),
            )
        self.children.append((child, name, stop_signal))
        return child

    def run(self, command, **more):
        """Runs a command to its end as the unprivileged account and returns what it wrote to its standard output."""
        done = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.directory,
            preexec_fn=lambda: self._become_child(signal.SIGKILL), **more,
        )
        if done.returncode:
            raise Failure(f"{command[0]} failed:\n{done.stderr}{done.stdout}")
        return done.stdout

    def stop(self, child):
        """Asks a process to end, and after a while makes it."""
        entry = next(entry for entry in self.children if entry[0] is child)
        self.children.remove(entry)
        if child.poll() is None:
            child.send_signal(entry[2])
            try:
                child.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def close(self):
        """Stops everything, the youngest first, and removes the directory."""
        while self.children:
            self.stop(self.children[-1][0])
        shutil.rmtree(self.directory, ignore_errors=True)

    def write(self, name, text):
        """Writes a file that the unprivileged account can read and nobody else."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        return path

    def log(self, name):
        """The last lines that a process wrote."""
        path = self.directory / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]) if path.exists() else ""

    def wait_for_port(self, child, name, port):
        """Waits until the process accepts connections."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise Failure(f"{name} ended with {child.returncode} at its start:\n{self.log(name)}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failure(f"{name} does not listen on port {port} after {START_SECONDS_MAX} s:\n{self.log(name)}")

    def _become_child(self, death_signal):
        # The order matters: a change of credentials clears the death signal.
        if self.account:
            os.setgroups([])
            os.setgid(self.account.pw_gid)
            os.setuid(self.account.pw_uid)
        LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)


class Postgres:
    """One PostgreSQL cluster in the nursery: a primary, or a streaming replica of one."""

    def __init__(self, nursery, binaries, name, method, settings, primary=None, port=None):
        self.nursery, self.binaries, self.name = nursery, pathlib.Path(binaries), name
        self.port = port or free_port()
        data = nursery.directory / name
        if primary is None:
            password = nursery.write(f"{name}.password", PASSWORD)
            nursery.run([
                self.binaries / "initdb", "-D", data, "-U", USER, "-A", method, "--pwfile", password, "-N",
                "--locale=C", "-E", "UTF8",
            ])
        else:
            nursery.run(
                [self.binaries / "pg_basebackup", "-D", data, "-R", "-c", "fast", "-h", "127.0.0.1", "-p", primary.port,
                 "-U", USER, "-X", "stream"],
                env=client_environment(),
            )
        everything = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "full_page_writes": "off",
            "max_connections": "200", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
        } | settings
        command = [self.binaries / "postgres", "-D", data, "-p", self.port]
        for key, value in everything.items():
            command += ["-c", f"{key}={value}"]
        # SIGQUIT is PostgreSQL's immediate shutdown: the postmaster takes its children with it.
        self.process = nursery.start(name, command, death_signal=signal.SIGQUIT, stop_signal=signal.SIGQUIT)
        nursery.wait_for_port(self.process, name, self.port)
        wait_until(f"{name} answers", self._answers, lambda: nursery.log(name))

    def replicas(self, number, settings):
        """So many replicas, all of which stream from this one."""
        started = [Postgres(self.nursery, self.binaries, f"replica{each + 1}", "scram-sha-256", settings, self) for each in range(number)]
        wait_until(
            "all replicas stream",
            lambda: self.query("select count(*) from pg_stat_replication where state = 'streaming'") == str(number))
        return started

    def query(self, text, database="postgres"):
        """The unaligned rows that psql prints."""
        done = subprocess.run(
            [self.binaries / "psql", "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-c", text],
            capture_output=True, text=True, env=client_environment(),
        )
        if done.returncode:
            raise Failure(f"{self.name}: {text}\n{done.stderr}")
        return done.stdout.strip()

    def _answers(self):
        try:
            return self.query("select 1") == "1"
        except Failure:
            return False


@dataclasses.dataclass
class Sample:
    """One run of pgbench, without its first second and its last."""

    transactions: float
    seconds: float
    cpu_ns: int | None
    switches: int | None
    failed: int

    @property
    def tps(self):
        return self.transactions / self.seconds

    @property
    def cpu_us(self):
        return None if self.cpu_ns is None else self.cpu_ns / 1000 / self.transactions

    @property
    def switches_each(self):
        return None if self.switches is None else self.switches / self.transactions


def pgbench(binaries, port, database, arguments, seconds, watched=None):
    """Runs pgbench, and measures the watched process meanwhile.

    The window begins at pgbench's first progress line, so that logins and the warming-up are left out of it: with SCRAM, 32
    logins cost a proxy more than thousands of transactions. It ends before pgbench does, which may omit its last line.
    """
    command = [
        str(pathlib.Path(binaries) / "pgbench"), "-n", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-P", "1",
        "-T", str(seconds + 2), *arguments, database,
    ]
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        env=client_environment(), preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0),
    )
    try:
        points, said = [], []
        for line in child.stderr:
            found = PROGRESS.match(line)
            if found and len(points) <= seconds:
                # Our own clock: pgbench rounds its times to tenths of a second.
                points.append((time.monotonic(), float(found[1]), usage(watched.pid) if watched else None))
            elif not found:
                said.append(line)
        report = child.stdout.read()
        if child.wait() or len(points) <= seconds:
            raise Failure(f"{' '.join(command)}\n{''.join(said)}{report}")
    finally:
        child.kill()
        child.wait()
    failed = re.search(r"number of failed transactions: (\d+)", report)
    counted = sum((now - before) * rate for (before, _, _), (now, rate, _) in zip(points, points[1:]))
    (_, _, first), (_, _, last) = points[0], points[-1]
    return Sample(
        transactions=counted, seconds=points[-1][0] - points[0][0],
        cpu_ns=last[0] - first[0] if watched else None, switches=last[1] - first[1] if watched else None,
        failed=int(failed[1]) if failed else 0,
    )


def usage(pid):
    """Nanoseconds on a CPU, and times it went to sleep, for a process and its descendants.

    The scheduler counts per thread, and a thread that ends takes its count along: only differences over a window in which
    no thread ends are right. That holds here, as proxies start their threads before the first client.
    """
    cpu_ns = switches = 0
    for member in family(pid):
        for task in pathlib.Path(f"/proc/{member}/task").glob("*"):
            try:
                cpu_ns += int((task / "schedstat").read_text().split()[0])
                switches += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)[1])
            except (FileNotFoundError, ProcessLookupError):
                pass
    return cpu_ns, switches


def family(pid):
    """A process and all its descendants."""
    members = [pid]
    for member in members:
        for children in pathlib.Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += [int(child) for child in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                pass
    return members


def client_environment():
    return {"PATH": os.environ.get("PATH", ""), "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "LC_ALL": "C"}


def unprivileged_account():
    """Whom to run servers as: PostgreSQL and PgBouncer both refuse root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise Failure("run as root, this needs an account named postgres or nobody")


def free_port():
    """A port that nobody listens on now, below the range from which the kernel takes the ports of outgoing connections."""
    for port in range(*PORTS):
        if port in PORTS_GIVEN:
            continue
        PORTS_GIVEN.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise Failure(f"no free port in {PORTS}")


def wait_until(what, condition, explain=lambda: ""):
    """Waits for a condition, not for a time."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"not after {START_SECONDS_MAX} s: {what}\n{explain()}")
        time.sleep(0.05)


def postgres_binaries(given=None):
    """The directory of initdb, postgres and pgbench."""
    places = [pathlib.Path(given)] if given else [
        *sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -int(place.parent.name)),
        *[pathlib.Path(found).resolve().parent for found in [shutil.which("initdb")] if found],
    ]
    for place in places:
        if (place / "initdb").exists() and (place / "pgbench").exists():
            return place
    raise Failure("no PostgreSQL binaries found; give their directory by --pg-bin")


def machine():
    """What the figures depend on, in one line each."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return [
        f"CPU: {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        f"kernel: Linux {platform.release()}",
        f"load average when it began: {os.getloadavg()[0]:.2f}",
    ]


LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
PROGRESS = re.compile(r"progress: [\d.]+ s, ([\d.]+) tps")
USER = "bench"
PASSWORD = "bench-of-a-throw-away-server"
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 10
LOG_LINES_SHOWN = 20
PORTS = (21432, 29999)
PORTS_GIVEN = set()
