"""What all workloads stand on: one PostgreSQL, proxies that are started anew for each, and the clients of benches/load."""

import dataclasses
import json
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
import throwaway  # noqa: E402  (it lies beside this directory)


@dataclasses.dataclass
class Proxy:
    """Something that clients can be pointed at: a proxy, or the server itself."""

    name: str
    port: int
    process: subprocess.Popen | None = None
    http: int | None = None

    def cpu_ns(self):
        return throwaway.usage(self.process.pid)[0]

    def memory_kib(self, field="VmRSS"):
        """A figure of /proc/PID/status, summed over the process and its descendants: VmHWM is the highest since reset_peak()."""
        return sum(int(re.search(rf"^{field}:\s*(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])
                   for pid in throwaway.family(self.process.pid))

    def reset_peak(self):
        for pid in throwaway.family(self.process.pid):
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")

    def metric(self, name, label=""):
        """The sum of Hakem's series of that name with that label."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line)


@dataclasses.dataclass
class Row:
    """One line of the table. `ratio` is Hakem's figure in relation to PgBouncer's; `better` is "lower" or "higher"."""

    workload: str
    what: str
    hakem: float | None
    pgbouncer: float | None
    direct: float | None = None
    better: str = "lower"
    digits: int = 1
    note: str = ""
    ratio: float | None = None

    def __post_init__(self):
        # Noise may make less than nothing of what a proxy adds.
        if self.ratio is None and min(self.hakem or 0, self.pgbouncer or 0) > 0:
            self.ratio = self.hakem / self.pgbouncer


class Stage:
    """The server and what stands in front of it. All of it ends with the script."""

    def __init__(self, options):
        self.options = options
        self.nursery = throwaway.Nursery("hakem-bench-")
        self.binaries = throwaway.postgres_binaries(options.pg_bin)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.files_max = hard
        # The build may lie where the unprivileged account cannot go.
        for name, source in (("hakem", options.hakem), ("load", ROOT / "target/release/load")):
            if not source.exists():
                raise throwaway.Failure(f"{source} does not exist: cargo build --release -p hakem -p load")
            shutil.copy(source, self.nursery.directory / name)
        self.bouncer = options.pgbouncer or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        subprocess.run([self.nursery.directory / "load", "certificate", self.nursery.directory], check=True)
        for name in ("server.crt", "server.key"):
            path = self.nursery.directory / name
            self.nursery.write(name, path.read_text())
        self.primary = throwaway.Postgres(self.nursery, self.binaries, "primary", "scram-sha-256", SERVER_SETTINGS)
        self.primary.query(f"create database {DATABASE}")
        self.nursery.run(
            [self.binaries / "pgbench", "-i", "-q", "-s", SCALE, "-h", "127.0.0.1", "-p", self.primary.port, "-U", throwaway.USER,
             DATABASE], env=throwaway.client_environment())
        self.primary.query("create unlogged table load_lines (line text)", DATABASE)
        self.primary.query("vacuum analyze", DATABASE)
        # What both proxies are given for the user unless a workload says otherwise: PgBouncer computes one anew for each login where it has
        # the password.
        self.verifier = self.primary.query(f"select rolpassword from pg_authid where rolname = '{throwaway.USER}'")
        self.direct = Proxy("direct", self.primary.port)
        self.started = 0

    def both(self, **settings):
        """Hakem and PgBouncer with the same settings."""
        return [self.hakem(**settings), self.pgbouncer(**settings)]

    def hakem(self, pool=16, clients=1000, tls=False, servers=None, secret=None):
        port, http = throwaway.free_port(), throwaway.free_port()
        # The same certificate for all.
        config = HAKEM_TOML.format(
            port=port, http=http, clients=clients, user=throwaway.USER, password=throwaway.PASSWORD, pool=pool,
            secret=secret or self.verifier, servers=json.dumps([f"127.0.0.1:{server.port}" for server in servers or [self.primary]]),
            tls=HAKEM_TLS.format(directory=self.nursery.directory) if tls else "")
        return self._start("Hakem", port, config, lambda path: [self.nursery.directory / "hakem", "run", path], http)

    def pgbouncer(self, pool=16, clients=1000, tls=False, secret=None):
        port = throwaway.free_port()
        users = self.nursery.write(f"pgbouncer-{port}.users", f'"{throwaway.USER}" "{secret or self.verifier}"\n')
        config = PGBOUNCER_INI.format(
            server=self.primary.port, port=port, pool=pool, clients=clients, users=users,
            tls=PGBOUNCER_TLS.format(directory=self.nursery.directory) if tls else "")
        return self._start("PgBouncer", port, config, lambda path: [self.bouncer, path], None, signal.SIGINT)

    def _start(self, name, port, config, command, http, stop_signal=signal.SIGTERM):
        self.started += 1
        file = f"{name}-{self.started}"
        process = self.nursery.start(file, command(self.nursery.write(f"{file}.conf", config)), stop_signal=stop_signal)
        self.nursery.wait_for_port(process, file, port)
        proxy = Proxy(name, port, process, http)
        throwaway.wait_until(f"{name} answers a query", lambda: self.answers(proxy), lambda: self.nursery.log(file))
        return proxy

    def stop(self, *proxies):
        for proxy in proxies:
            self.nursery.stop(proxy.process)

    def answers(self, proxy):
        """Whether a statement gets through, which needs more of a proxy than a listening socket."""
        done = subprocess.run(
            [self.binaries / "psql", "-XAtq", "-h", "127.0.0.1", "-p", str(proxy.port), "-U", throwaway.USER, "-d", DATABASE,
             "-c", "select count(*) from pgbench_branches"],
            capture_output=True, text=True, env=throwaway.client_environment())
        return done.returncode == 0

    def load_command(self, proxy, what, *arguments, tls=False):
        words = [self.nursery.directory / "load", what, "--port", proxy.port, "--user", throwaway.USER,
                 "--password", throwaway.PASSWORD, "--database", DATABASE, *arguments]
        if tls:
            words += ["--certificate", self.nursery.directory / "server.crt"]
        return [str(word) for word in words]

    def load(self, proxy, what, *arguments):
        """Runs a command of benches/load; what it prints."""
        command = self.load_command(proxy, what, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise throwaway.Failure(f"{' '.join(command[1:])}, through {proxy.name}:\n{done.stderr}")
        return json.loads(done.stdout)

    def pgbench(self, proxy, *arguments, seconds):
        return throwaway.pgbench(self.binaries, proxy.port, DATABASE, [str(word) for word in arguments], seconds, proxy.process)


def median(values):
    return statistics.median(values)


def ratio(ones, others):
    """The median of the ratios within each round: what disturbs a whole round drops out of it."""
    return statistics.median(one / other for one, other in zip(ones, others))


DATABASE = "bench"
SCALE = 10
SERVER_SETTINGS = {"shared_buffers": "256MB"}
ROWS = SCALE * 100_000

HAKEM_TOML = """\
[proxy]
listen = ["127.0.0.1:{port}"]
http_listen = "127.0.0.1:{http}"
max_client_conn = {clients}

[auth]
method = "scram-sha-256"
{tls}
[[users]]
name = "{user}"
password = "{secret}"

[clusters.main]
servers = {servers}
probe_user = "{user}"
probe_password = "{password}"

[databases."*"]
cluster = "main"

[pool]
size = {pool}
"""

HAKEM_TLS = """
[tls]
client_tls_sslmode = "allow"
client_tls_cert_file = "{directory}/server.crt"
client_tls_key_file = "{directory}/server.key"
"""

PGBOUNCER_INI = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
listen_backlog = 1024
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = {clients}
log_connections = 0
log_disconnections = 0
{tls}
"""

PGBOUNCER_TLS = """\
client_tls_sslmode = allow
client_tls_cert_file = {directory}/server.crt
client_tls_key_file = {directory}/server.key
"""
