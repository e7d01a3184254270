"""Nine reads to a write, over a primary and two replicas. All servers are on this machine: it is the price that shows, not the gain."""

from stage import SERVER_SETTINGS, Row, median, ratio

ROUNDS = 3
REPLICAS = 2


def measure(stage):
    replicas = stage.primary.replicas(REPLICAS, SERVER_SETTINGS)
    splitting, alone, bouncer = stage.hakem(servers=[stage.primary, *replicas]), stage.hakem(), stage.pgbouncer()
    samples, shares = {}, []
    for _ in range(ROUNDS):
        for key, proxy in (("split", splitting), ("primary", alone), ("bouncer", bouncer)):
            before = statements(splitting)
            sample = stage.pgbench(proxy, "-b", "select-only@9", "-b", "simple-update@1", "-c", 32, "-j", 2, seconds=3)
            samples.setdefault(key, []).append(sample)
            if key == "split":
                to_replicas, all_of_them = (after - earlier for after, earlier in zip(statements(splitting), before))
                shares.append(to_replicas / all_of_them)
    stage.stop(splitting, alone, bouncer)
    for replica in replicas:
        stage.nursery.stop(replica.process)
    yield Row("90 reads to 10 writes", "statements on replicas, %", 100 * median(shares), None, better="higher",
              note="a write is a transaction of five statements, two of which begin and end it")
    for what, value, better, digits in (("CPU per transaction, µs", lambda sample: sample.cpu_us, "lower", 1),
                                        ("transactions per second", lambda sample: sample.tps, "higher", 0)):
        split, primary, others = ([value(sample) for sample in samples[key]] for key in ("split", "primary", "bouncer"))
        yield Row("90 reads to 10 writes, split", what, median(split), median(others), better=better, digits=digits,
                  ratio=ratio(split, others), note=f"{ratio(split, primary):.2f} of Hakem's with the primary alone")
        yield Row("90 reads to 10 writes, primary alone", what, median(primary), median(others), better=better, digits=digits,
                  ratio=ratio(primary, others))


def statements(proxy):
    """Those that went to replicas, and all."""
    return proxy.metric("hakem_statements_total", 'to="replica"'), proxy.metric("hakem_statements_total")
