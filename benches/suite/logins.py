"""A login by SCRAM for each transaction: pgbench -C -S with eight clients. The proxies have the user's verifier, or his password."""

from stage import Row, median, ratio, throwaway

ROUNDS = 3


def measure(stage):
    for given, secret in (("verifier", stage.verifier), ("password", throwaway.PASSWORD)):
        proxies = stage.both(secret=secret)
        each_cpu, tps = {}, {}
        for _ in range(ROUNDS):
            for proxy in [*proxies, stage.direct]:
                sample = stage.pgbench(proxy, "-C", "-S", "-c", 8, "-j", 2, seconds=2)
                tps.setdefault(proxy.name, []).append(sample.tps)
                if proxy.process:
                    each_cpu.setdefault(proxy.name, []).append(1e6 / sample.cpu_us)
        stage.stop(*proxies)
        name = f"logins, {given} in the proxy's list"
        yield Row(name, "per second of CPU", *map(median, each_cpu.values()), better="higher", digits=0, ratio=ratio(*each_cpu.values()))
        hakem, bouncer, direct = tps.values()
        yield Row(name, "per second", median(hakem), median(bouncer), median(direct), better="higher", digits=0,
                  ratio=ratio(hakem, bouncer))
