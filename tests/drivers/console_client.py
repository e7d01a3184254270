"""The admin console as drivers see it: psycopg 3 by the extended protocol, psycopg2 by the simple one, asyncpg in binary."""

import asyncio
import os

import asyncpg
import psycopg
import psycopg2
from psycopg.rows import dict_row


def main():
    for database in ("pgbouncer", "hakem"):
        psycopg_3(database)
        psycopg_2(database)
        asyncio.run(with_asyncpg(database))
    print("done")


def psycopg_3(database):
    # Not in autocommit: the driver begins transactions.
    with psycopg.connect(dbname=database, row_factory=dict_row) as c:
        assert c.info.parameter_status("server_version") == "1.25.2/bouncer"
        rows = c.execute("SHOW POOLS", prepare=True).fetchall()
        assert {"database", "user", "cl_active", "maxwait_us"} <= set(rows[0]), rows
        assert isinstance(rows[0]["cl_active"], int)
        c.commit()
        for binary in (False, True):
            cursor = c.cursor(binary=binary)
            for _ in range(8):
                stats = cursor.execute("SHOW STATS").fetchall()
                assert all(int(row["total_xact_count"]) >= 0 for row in stats), stats
            lists = cursor.execute("show lists").fetchall()
            assert all(set(row) == {"list", "items"} and isinstance(row["items"], int) for row in lists), lists
        try:
            c.execute("SHOW NONSENSE")
        except psycopg.errors.SyntaxError as error:
            assert "invalid command 'SHOW NONSENSE', use SHOW HELP;" in str(error), error
        else:
            raise AssertionError("nonsense was shown")
        c.rollback()
        assert c.execute("SHOW VERSION").fetchone()["version"].startswith("PgBouncer 1.25.2")
        assert c.execute("SELECT 1").fetchone() == {"?column?": 1}
    with psycopg.connect(dbname=database, autocommit=True) as c:
        with c.pipeline():
            cursors = [c.execute("SHOW STATE") for _ in range(5)]
        assert all(cursor.fetchone() == ("active", "yes") for cursor in cursors)


def psycopg_2(database):
    c = psycopg2.connect(dbname=database)
    c.autocommit = True
    cursor = c.cursor()
    cursor.execute("SHOW DATABASES;")
    assert cursor.description[0].name == "name" and cursor.description[5].name == "pool_size"
    assert "pgbouncer" in [row[0] for row in cursor.fetchall()]
    c.close()


async def with_asyncpg(database):
    c = await asyncpg.connect(database=database)
    rows = await c.fetch("SHOW CLIENTS")
    assert [name for name in rows[0].keys()][:3] == ["type", "user", "database"] if rows else True
    stats = await c.fetch("SHOW STATS")
    assert int(stats[0]["total_query_count"]) >= 0
    statement = await c.prepare("SHOW TOPOLOGY")
    for _ in range(3):
        nodes = await statement.fetch()
        assert [node["writes"] for node in nodes].count("yes") == 1, nodes
    async with c.transaction():
        rows = [row async for row in c.cursor("SHOW LISTS", prefetch=3)]
        assert len(rows) == 14, rows
    await c.close()


assert os.environ["PGHOST"]
main()
