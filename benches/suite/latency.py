"""What a proxy adds to the answer of a row by its key, for one client and nobody else."""

from stage import ROWS, Row, median

ROUNDS = 5


def measure(stage):
    proxies = stage.both()
    seen = {}
    for _ in range(ROUNDS):
        for proxy in [stage.direct, *proxies]:
            found = stage.load(proxy, "crowd", "--clients", 1, "--active", 1, "--seconds", 1.5, "--rows", ROWS)
            seen.setdefault(proxy.name, []).append(found)
    stage.stop(*proxies)
    for key in ("p50", "p99"):
        direct, hakem, bouncer = ([found[f"{key}_us"] for found in seen[name]] for name in ("direct", "Hakem", "PgBouncer"))
        added = [median([mine - other for mine, other in zip(proxy, direct)]) for proxy in (hakem, bouncer)]
        yield Row("one client", f"added to the {key}, µs", *added, note=f"direct: {median(direct):.0f} µs", digits=0)
