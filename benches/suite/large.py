"""Large results, loads, batches and texts by one client, as a share of what the server does without a proxy."""

from stage import DATABASE, Row, median, ratio

ROUNDS = 3
WHATS = {
    "result": "1 GB of rows", "copy-out": "1 GB of COPY TO", "copy-in": "100 MB of COPY FROM",
    "batch": "10,000 rows in a pipeline", "text": "query texts of 1 MB",
}


def measure(stage):
    proxies = stage.both()
    for what, name in WHATS.items():
        rates, peaks = {}, {}
        for _ in range(ROUNDS):
            for proxy in [stage.direct, *proxies]:
                stage.primary.query("truncate load_lines", DATABASE)
                if proxy.process:
                    proxy.reset_peak()
                found = stage.load(proxy, "large", "--what", what)
                rates.setdefault(proxy.name, []).append(found["bytes"] / found["seconds"] / 1e6)
                if proxy.process:
                    peaks.setdefault(proxy.name, []).append(proxy.memory_kib("VmHWM") / 1024)
        direct, hakem, bouncer = rates.values()
        yield Row(name, "throughput, % of direct", 100 * ratio(hakem, direct), 100 * ratio(bouncer, direct), better="higher", digits=0,
                  ratio=ratio(hakem, bouncer), note=f"direct: {median(direct):.0f} MB/s")
        yield Row(name, "memory at most, MiB", *(max(peak) for peak in peaks.values()))
    stage.stop(*proxies)
