"""Memory per idle client, all logged in by SCRAM."""

import json
import subprocess

from stage import Row, throwaway

# With TLS each login costs ten times as much.
CLIENTS = {False: (2_000, 10_000), True: (2_000,)}
# Files that a proxy has open besides its clients.
FILES_BESIDES = 500


def measure(stage):
    for tls in (False, True):
        each = {}
        for start in (stage.hakem, stage.pgbouncer):
            proxy = start(clients=max(CLIENTS[tls]) + 100, tls=tls)
            for clients, kib in per_client(stage, proxy, tls):
                each.setdefault(clients, {})[proxy.name] = kib
            stage.stop(proxy)
        for clients, kib in each.items():
            what = f"{clients:,} idle clients{' with TLS' * tls}"
            yield Row(what, "memory per client, KiB", kib["Hakem"], kib["PgBouncer"], digits=2)


def per_client(stage, proxy, tls):
    before = proxy.memory_kib()
    command = stage.load_command(proxy, "idle", tls=tls)
    crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        for clients in CLIENTS[tls]:
            if clients + FILES_BESIDES > stage.files_max:
                print(f"{clients} clients need more open files than `ulimit -Hn` allows ({stage.files_max})", flush=True)
                return
            crowd.stdin.write(f"{clients}\n")
            if json.loads(crowd.stdout.readline() or "{}").get("clients") != clients:
                raise throwaway.Failure(f"{clients} clients did not get through {proxy.name}")
            yield clients, (proxy.memory_kib() - before) / clients
    finally:
        crowd.stdin.close()
        crowd.wait()
