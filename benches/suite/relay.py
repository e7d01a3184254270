"""A row by its key, 32 clients on 16 servers: what benches/compare measures, without pgbench's own transaction.

That one is left out since pgbench prepares its statements in the middle of a transaction, and with more clients than servers waits for
itself.
"""

import json
import subprocess

from stage import ROOT, Row, median, ratio


def measure(stage):
    path = stage.nursery.directory / "compare.json"
    command = [ROOT / "benches/compare/run", "--workloads", "select", "--rounds", "3", "--seconds", "2", "--json", path,
               "--pg-bin", stage.binaries, "--pgbouncer", stage.bouncer, "--hakem", stage.options.hakem]
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    cells = {(cell["protocol"], cell["contender"]): cell for cell in json.loads(path.read_text())["cells"]}
    for protocol in ("simple", "extended", "prepared"):
        hakem, bouncer, direct = (cells[protocol, name] for name in ("Hakem", "PgBouncer", "direct"))
        measured = bouncer["measured_protocol"]
        note = "" if measured == protocol else f"PgBouncer's is {measured}: it keeps no prepared statements"
        cpu = [[round_["cpu_us"] for round_ in cell["rounds"]] for cell in (hakem, bouncer)]
        yield Row(f"select, {protocol}", "CPU per transaction, µs", *map(median, cpu), note=note, ratio=ratio(*cpu))
        tps = [[round_["tps"] for round_ in cell["rounds"]] for cell in (hakem, bouncer, direct)]
        yield Row(f"select, {protocol}", "transactions per second", *map(median, tps), better="higher", digits=0, note=note,
                  ratio=ratio(*tps[:2]))
        sleeps = [[round_["sleeps"] for round_ in cell["rounds"]] for cell in (hakem, bouncer)]
        yield Row(f"select, {protocol}", "times asleep per transaction", *map(median, sleeps), digits=2, note=note,
                  ratio=ratio(*sleeps))
