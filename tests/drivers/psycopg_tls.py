"""What libpq does over TLS: every way of asking for it, and more data than any buffer holds. Arguments: the authority's certificate."""

import asyncio
import sys

import psycopg

ROOT = sys.argv[1]
ROWS = 100_000


def main():
    asyncio.run(run(direct))
    for negotiation in ("postgres", "direct"):
        with connect(negotiation) as c:
            copies(c)
        asyncio.run(run(lambda: large(negotiation)))
    print("done")


def options(negotiation):
    return f"sslmode=verify-full sslrootcert={ROOT} sslnegotiation={negotiation} gssencmode=disable"


def connect(negotiation):
    return psycopg.connect(options(negotiation), autocommit=True)


async def run(test):
    await asyncio.wait_for(test(), 100)


async def direct():
    async with await psycopg.AsyncConnection.connect(options("direct"), autocommit=True) as c:
        assert c.pgconn.ssl_in_use
        assert await (await c.execute("select 1")).fetchone() == (1,)


async def large(negotiation):
    # Reads without blocking: a record larger than libpq reads at once would be left where no select() sees it.
    async with await psycopg.AsyncConnection.connect(options(negotiation), autocommit=True) as c:
        cursor = await c.execute(f"select n, repeat('x', 1000) from generate_series(1, {ROWS}) n")
        count = 0
        async for n, text in cursor:
            count += 1
            assert n == count and len(text) == 1000
        assert count == ROWS
        # One message of 30 MB, and one that goes the other way.
        (text,) = await (await c.execute("select repeat('y', 30000000)")).fetchone()
        assert len(text) == 30_000_000
        (length,) = await (await c.execute("select length(%s::text)", ("z" * 20_000_000,))).fetchone()
        assert length == 20_000_000
        async with c.pipeline():
            cursors = [await c.execute("select %s::int, repeat('p', 5000)", (n,)) for n in range(500)]
            for n, cursor in enumerate(cursors):
                assert (await cursor.fetchone())[0] == n


def copies(c):
    c.execute("drop table if exists t")
    c.execute("create table t (n int, s text)")
    with c.cursor() as cursor:
        with cursor.copy("copy t from stdin") as copy:
            for n in range(20_000):
                copy.write_row((n, "c" * 1000))
        size = 0
        with cursor.copy("copy t to stdout") as copy:
            for block in copy:
                size += len(block)
        assert size > 20_000_000, size
        assert cursor.execute("select count(*), sum(length(s)) from t").fetchone() == (20_000, 20_000_000)


main()
