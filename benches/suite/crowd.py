"""Thousands of clients on a pool of 40: what the idle ones cost the others, and how evenly those are served."""

from stage import ROWS, Row, median, ratio

ROUNDS = 2
# Clients, and how many of them ask.
CROWDS = [(500, 500), (2_000, 500), (2_000, 2_000)]


def measure(stage):
    proxies = stage.both(pool=40, clients=3_000)
    seen = {}
    for _ in range(ROUNDS):
        for crowd in CROWDS:
            for proxy in proxies:
                clients, active = crowd
                found = stage.load(proxy, "crowd", "--clients", clients, "--active", active, "--seconds", 4, "--rows", ROWS)
                seen.setdefault((crowd, proxy.name), []).append(found)
    stage.stop(*proxies)

    def both(crowd, value):
        return [[value(found) for found in seen[crowd, proxy.name]] for proxy in proxies]

    alone = both((500, 500), lambda found: found["tps"])
    among = both((2_000, 500), lambda found: found["tps"])
    yield Row("500 of 2,000 clients", "throughput, of 500 clients alone", *map(ratio, among, alone), better="higher", digits=2)
    for crowd in CROWDS[1:]:
        name = "500 of 2,000 clients" if crowd[1] < crowd[0] else "2,000 clients"
        tps = both(crowd, lambda found: found["tps"])
        yield Row(name, "transactions per second", *map(median, tps), better="higher", digits=0, ratio=ratio(*tps))
        for key in ("p50", "p99"):
            waits = both(crowd, lambda found, key=key: found[f"{key}_us"] / 1000)
            yield Row(name, f"{key}, ms", *map(median, waits), ratio=ratio(*waits))
        spreads = both(crowd, lambda found: found["p99_us"] / found["p50_us"])
        yield Row(name, "p99 / p50", *map(median, spreads), digits=2, ratio=ratio(*spreads))
        slowest = both(crowd, lambda found: found["slowest_share"])
        yield Row(name, "slowest client, of the mean", *map(median, slowest), better="higher", digits=2)
