"""What applications do with asyncpg, through the proxy that libpq's environment variables point at.

With asyncpg's defaults: statement cache on, named prepared statements, server-side introspection of types.
"""

import asyncio
import io

import asyncpg


async def main():
    c = await asyncpg.connect()
    await c.execute("create table items (id serial primary key, name text, n int)")
    await c.execute("create type suit as enum ('spades', 'hearts')")
    await c.execute("create type card as (s suit, rank int)")
    await c.close()
    for test in (basics, prepared, transactions, cursors, copies, introspection, listen, pool, settings):
        await test()
        print("ok", test.__name__)
    print("done")


async def basics():
    c = await asyncpg.connect()
    assert await c.fetchval("select $1::int + 1", 41) == 42
    assert await c.fetchrow("select 1 as a, 'x' as b") == (1, "x")
    assert await c.execute("insert into items (name, n) values ('a', 1)") == "INSERT 0 1"
    assert await c.fetchval("insert into items (name, n) values ($1, $2) returning n", "b", 2) == 2
    await c.executemany("insert into items (name, n) values ($1, $2)", [(f"m{i}", i) for i in range(100)])
    assert await c.fetchval("select count(*) from items") == 102
    assert len(await c.fetch("select * from items where n >= $1", 50)) == 50
    await expect(asyncpg.DivisionByZeroError, c.fetchval("select 1/0"))
    await expect(asyncpg.DivisionByZeroError, c.fetchval("select 1/$1::int", 0))
    await expect(asyncpg.UndefinedTableError, c.execute("select * from no_such_table"))
    await expect(asyncpg.UniqueViolationError, c.execute("insert into items (id) values (1)"))
    assert await c.execute("select 1; select 2") == "SELECT 1"
    await expect(asyncio.TimeoutError, c.fetchval("select pg_sleep(600)", timeout=0.2))
    assert await c.fetchval("select 'alive'") == "alive"
    assert c.get_server_version().major >= 13
    heard = []
    c.add_log_listener(lambda _, message: heard.append(message.message))
    await c.execute("do $$ begin raise notice 'hear me'; end $$")
    assert heard == ["hear me"] or await eventually(lambda: heard == ["hear me"])
    await c.close()


async def prepared():
    connections = [await asyncpg.connect() for _ in range(5)]
    statements = [await c.prepare(f"select 'client {i}' || $1") for i, c in enumerate(connections)]
    for turn in "abc":
        for i, s in enumerate(statements):
            assert await s.fetchval(turn) == f"client {i}{turn}"
    assert [p.name for p in statements[0].get_parameters()] == ["text"]
    for c in connections:
        await c.close()
    c = await asyncpg.connect(statement_cache_size=3)
    for i in range(20):
        assert await c.fetchval(f"select {i % 7} + $1::int", i) == i % 7 + i
    # The shape of a table changes under a cached statement.
    await c.execute("create table shape (a int)")
    await c.execute("insert into shape values (1)")
    assert await c.fetchrow("select * from shape") == (1,)
    d = await asyncpg.connect()
    assert await d.fetchrow("select * from shape") == (1,)
    for i, columns in enumerate([(1, None), (1, None, None)]):
        await d.execute(f"alter table shape add b{i} int")
        for client in (c, d):
            for _ in range(3):
                assert await client.fetchrow("select * from shape") == columns
    # In a transaction there is no second attempt, here as anywhere.
    await d.execute("alter table shape drop a")
    async with c.transaction():
        await c.execute("select 1")
        try:
            async with c.transaction():
                assert await c.fetchrow("select * from shape") == (None, None)
        except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
            pass
    assert await c.fetchrow("select * from shape") == (None, None)
    await c.close()
    await d.close()


async def transactions():
    c = await asyncpg.connect()
    async with c.transaction():
        await c.execute("insert into items (name, n) values ('t', 1000)")
        try:
            async with c.transaction():
                await c.execute("insert into items (name, n) values ('inner', 1001)")
                raise KeyError
        except KeyError:
            pass
        assert await c.fetchval("select count(*) from items where n >= 1000") == 1
    try:
        async with c.transaction():
            await c.execute("insert into items (name, n) values ('t', 2000)")
            await c.execute("select 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    assert await c.fetch("select n from items where n >= 1000") == [(1000,)]
    for isolation in ("serializable", "repeatable_read", "read_committed"):
        async with c.transaction(isolation=isolation, readonly=True):
            assert await c.fetchval("show transaction_isolation") == isolation.replace("_", " ")
            await expect(asyncpg.ReadOnlySQLTransactionError, c.execute("insert into items (n) values (1)"))
    transaction = c.transaction()
    await transaction.start()
    await c.execute("insert into items (name, n) values ('t', 3000)")
    await transaction.rollback()
    assert await c.fetchval("select count(*) from items where n = 3000") == 0
    await c.close()


async def cursors():
    c = await asyncpg.connect()
    async with c.transaction():
        total = 0
        async for row in c.cursor("select generate_series(1, $1::int)", 1000, prefetch=50):
            total += row[0]
        assert total == 500500
        cursor = await c.cursor("select generate_series(1, 10)")
        assert await cursor.fetchrow() == (1,)
        await cursor.forward(3)
        assert await cursor.fetch(2) == [(5,), (6,)]
    await c.close()


async def copies():
    c = await asyncpg.connect()
    await c.execute("create table copied (n int, s text)")
    rows = [(i, f"row {i}") for i in range(20000)]
    assert await c.copy_records_to_table("copied", records=rows) == "COPY 20000"
    out = io.BytesIO()
    assert await c.copy_from_query("select * from copied where n < $1", 100, output=out) == "COPY 100"
    assert out.getvalue().count(b"\n") == 100
    out.seek(0)
    assert await c.copy_to_table("copied", source=out) == "COPY 100"
    await expect(asyncpg.PostgresError, c.copy_to_table("copied", source=io.BytesIO(b"no number\tx\n")))
    assert await c.fetchval("select count(*) from copied") == 20100
    await c.close()


async def introspection():
    # A composite of an enum: asyncpg asks the catalog about it with a query of its own.
    for _ in range(2):
        c = await asyncpg.connect()
        d = await asyncpg.connect()
        jit = await d.fetchval("show jit")

        async def watch():
            for _ in range(20):
                assert await d.fetchval("show jit") == jit

        watching = asyncio.create_task(watch())
        assert await c.fetchval("select row('hearts', 7)::card") == ("hearts", 7)
        assert await c.fetchval("select array[row('spades', 1)::card]") == [("spades", 1)]
        assert await c.fetchval("select $1::card", ("hearts", 2)) == ("hearts", 2)
        await c.set_type_codec("json", encoder=str, decoder=lambda text: "J" + text, schema="pg_catalog")
        assert await c.fetchval("select '1'::json") == "J1"
        await watching
        assert await c.fetchval("show jit") == jit
        await c.close()
        await d.close()


async def listen():
    listener, speaker = await asyncpg.connect(), await asyncpg.connect()
    heard = []
    await listener.add_listener("events", lambda _c, _pid, channel, payload: heard.append((channel, payload)))
    await speaker.execute("notify events, 'one'")
    await speaker.execute("select pg_notify('events', $1)", "two")
    assert await eventually(lambda: heard == [("events", "one"), ("events", "two")]), heard
    assert await listener.fetchval("select 1") == 1
    await listener.reset()
    await listener.close()
    await speaker.close()


async def pool():
    # asyncpg resets a connection when it goes back to its pool: advisory locks, cursors, LISTEN, RESET ALL.
    async with asyncpg.create_pool(min_size=2, max_size=4) as pool:

        async def work(i):
            async with pool.acquire() as c:
                await c.execute("insert into items (name, n) values ($1, $2)", f"pool {i}", i)
                return await c.fetchval("select count(*) from items where name = $1", f"pool {i}")

        assert await asyncio.gather(*(work(i) for i in range(40))) == [1] * 40
        async with pool.acquire() as c, c.transaction():
            assert await c.fetchval("select count(*) from items where name like 'pool %'") == 40


async def settings():
    c = await asyncpg.connect(server_settings={"application_name": "cards", "search_path": "pg_catalog, public"})
    d = await asyncpg.connect()
    assert await c.fetchval("show application_name") == "cards"
    assert await d.fetchval("show application_name") != "cards"
    assert await c.fetchval("show search_path") == "pg_catalog, public"
    await c.execute("set timezone to 'Asia/Tehran'")
    assert c.get_settings().TimeZone == "Asia/Tehran"
    assert await d.fetchval("show timezone") != "Asia/Tehran"
    assert await c.fetchval("show timezone") == "Asia/Tehran"
    await c.close()
    await d.close()


async def expect(error, awaitable):
    try:
        await awaitable
    except error:
        return
    raise AssertionError(f"no {error}")


async def eventually(condition):
    for _ in range(3000):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


asyncio.run(main())
