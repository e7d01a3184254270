"""What applications do with psycopg 3's asyncio side and its pools, through the proxy that libpq's environment variables point at."""

import asyncio

import psycopg
from psycopg import errors
from psycopg.rows import class_row, scalar_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool


async def main():
    async with await psycopg.AsyncConnection.connect(autocommit=True) as c:
        await c.execute("create table items (id serial primary key, name text, n int)")
    for test in (statements, transactions, pipelines, deallocation, cursors, copies, pools, sync_pool, notifications, cancels, lost):
        await test()
        print("ok", test.__name__)
    print("done")


async def connect(**options):
    return await psycopg.AsyncConnection.connect(autocommit=True, **options)


async def value(c, sql, parameters=None, **options):
    return (await (await c.execute(sql, parameters, **options)).fetchone())[0]


async def statements():
    async with await connect(row_factory=scalar_row) as c:
        async with c.cursor() as cur:
            for binary in (False, True):
                await cur.execute("select %s::int8 * 2", (2**40,), binary=binary)
                assert await cur.fetchone() == 2**41
            await cur.executemany("insert into items (name, n) values (%s, %s) returning n", [("m", i) for i in range(100)], returning=True)
            assert [await result.fetchone() async for result in cur.results()] == list(range(100))
    # Client-side binding goes by the simple protocol, and may hold several statements.
    async with await connect(cursor_factory=psycopg.AsyncClientCursor) as c:
        cur = await c.execute("select %s; select %s", (1, "two"))
        assert await cur.fetchone() == (1,)
        assert cur.nextset() and await cur.fetchone() == ("two",)
    async with await connect(cursor_factory=psycopg.AsyncRawCursor) as c:
        assert await value(c, "select $1 || $2", ("a", "b")) == "ab"
    # An index that only some of them may make, since it waits for all transactions.
    async with await connect() as c:
        await c.execute("create index concurrently items_name on items (name)")
        await c.execute("vacuum analyze items")


async def transactions():
    c = await psycopg.AsyncConnection.connect()
    async with c.transaction():
        await c.execute("insert into items (name, n) values ('t', 1000)")
        try:
            async with c.transaction("inner_one"):
                await c.execute("insert into items (name, n) values ('t', 1001)")
                await c.execute("select 1/0")
        except errors.DivisionByZero:
            pass
        async with c.transaction(force_rollback=True):
            await c.execute("insert into items (name, n) values ('t', 1002)")
    assert await value(c, "select array_agg(n) from items where n >= 1000") == [1000]
    await c.rollback()
    await c.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    await c.set_read_only(True)
    await c.set_deferrable(True)
    assert await value(c, "show transaction_deferrable") == "on"
    await c.rollback()
    await c.close()


async def pipelines():
    async with await connect(prepare_threshold=0) as c:
        for _ in range(3):
            async with c.pipeline() as p:
                cursors = [await c.execute("select %s::int, repeat('x', 1000)", (i,)) for i in range(300)]
                await p.sync()
                # Where it is noticed depends on what has arrived by then.
                try:
                    failing = await c.execute("select 1/%s", (0,))
                    await c.execute("insert into items (name, n) values ('never', 1)")
                    await p.sync()
                    await failing.fetchone()
                    raise AssertionError("no error")
                except errors.DivisionByZero:
                    pass
                # If that was noticed early, what was behind it is yet to be told of.
                try:
                    await p.sync()
                except errors.PipelineAborted:
                    await p.sync()
                after = await c.execute("insert into items (name, n) values ('after', 1) returning n")
            assert [(await cur.fetchone())[0] for cur in cursors] == list(range(300))
            assert await after.fetchone() == (1,)
        assert await value(c, "select count(*) from items where name = 'never'") == 0
        async with c.pipeline(), c.transaction():
            await c.execute("set local work_mem = '5MB'")
            cur = await c.execute("show work_mem")
        assert await cur.fetchone() == ("5MB",)
        assert await value(c, "show work_mem") != "5MB"


async def deallocation():
    # psycopg deallocates what its cache drops: by Close from libpq 17 on, else by DEALLOCATE with the protocol's names.
    async with await connect(prepare_threshold=0) as c, await connect(prepare_threshold=0) as d:
        c.prepared_max = d.prepared_max = 2
        for i in range(20):
            assert await value(c, f"select 'c{i % 7}', %s::int", (i,)) == f"c{i % 7}"
            assert await value(d, f"select 'd{i % 7}', %s::int", (i,)) == f"d{i % 7}"
        # An error makes it forget all of them, and so does what changes a search path: DEALLOCATE ALL.
        try:
            await c.execute("select * from no_such_table", prepare=True)
        except errors.UndefinedTable:
            pass
        await c.execute("deallocate all")
        for i in range(5):
            assert await value(c, f"select 'c{i}', %s::int", (i,)) == f"c{i}"
            assert await value(d, f"select 'd{i}', %s::int", (i,)) == f"d{i}"
        await c.execute("discard all")


async def cursors():
    c = await psycopg.AsyncConnection.connect()
    async with c.cursor("walk") as cur:
        cur.itersize = 50
        await cur.execute("select n from generate_series(1, %s) n", (1000,))
        assert sum([row[0] async for row in cur]) == 500500
    async with psycopg.AsyncServerCursor(c, "typed", row_factory=class_row(dict)) as cur:
        await cur.execute("select n from generate_series(1, 5) n")
        assert await cur.fetchall() == [{"n": n} for n in range(1, 6)]
    await c.rollback()
    await c.close()
    async with await connect() as c:
        # Left early: psycopg reads on, or cancels.
        async for row in c.cursor().stream("select n from generate_series(1, 100000) n", size=100):
            if row[0] == 5:
                break
        assert await value(c, "select 'alive'") == "alive"


async def copies():
    async with await connect() as c:
        await c.execute("create table copied (n int, s text)")
        async with c.cursor() as cur:
            async with cur.copy("copy copied from stdin (format binary)") as copy:
                copy.set_types(["int4", "text"])
                for i in range(20000):
                    await copy.write_row((i, f"row {i}"))
            size = 0
            async with cur.copy("copy (select * from copied where n < %s) to stdout", (10000,)) as copy:
                async for part in copy:
                    size += bytes(part).count(b"\n")
            assert size == 10000
            # From one connection to another.
            async with await connect() as d:
                await d.execute("create table copied_again (n int, s text)")
                async with cur.copy("copy copied to stdout (format binary)") as source, d.cursor() as other:
                    async with other.copy("copy copied_again from stdin (format binary)") as target:
                        async for part in source:
                            await target.write(part)
                assert await value(d, "select count(*) from copied_again") == 20000


async def pools():
    async def work(pool, i):
        async with pool.connection() as c:
            await c.execute("insert into items (name, n) values (%s, %s)", (f"pool {i}", i))
            assert await value(c, "select count(*) from items where name = %s", (f"pool {i}",)) == 1

    async def configure(c):
        await c.execute("set application_name = 'configured'")
        await c.commit()

    async def reset(c):
        await c.set_autocommit(True)
        await c.execute("reset work_mem")
        await c.set_autocommit(False)

    check = AsyncConnectionPool.check_connection
    async with AsyncConnectionPool(min_size=4, max_size=12, open=False, configure=configure, reset=reset, check=check) as pool:
        await pool.wait()
        await asyncio.gather(*(work(pool, i) for i in range(60)))
        async with pool.connection() as c:
            assert await value(c, "show application_name") == "configured"


async def sync_pool():
    def run():
        with ConnectionPool(min_size=2, max_size=4, open=True, kwargs={"autocommit": True, "prepare_threshold": 0}) as pool:
            for i in range(20):
                with pool.connection() as c:
                    assert c.execute("select %s::int", (i,)).fetchone() == (i,)

    await asyncio.to_thread(run)


async def notifications():
    async with await connect() as listener, await connect() as speaker:
        await listener.execute("listen events")
        await speaker.execute("notify events, 'one'")
        await speaker.execute("select pg_notify('events', %s)", ("two",))
        heard = [(n.channel, n.payload) async for n in listener.notifies(timeout=30, stop_after=2)]
        assert heard == [("events", "one"), ("events", "two")], heard
        # It is told while it asks for something else, too.
        handled = []
        listener.add_notify_handler(lambda n: handled.append(n.payload))
        async with speaker.transaction():
            await speaker.execute("notify events, 'three'")
        # Another connection hears it first, and on a busy machine that takes more than a few statements.
        end = asyncio.get_running_loop().time() + 30
        while not handled and asyncio.get_running_loop().time() < end:
            await listener.execute("select 1")
        assert handled == ["three"]
        await listener.execute("unlisten *")


async def cancels():
    async with await connect() as c:
        task = asyncio.create_task(c.execute("/* hakem: primary */ select pg_sleep(603)"))
        async with await connect() as watch:
            sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(603)' and pid <> pg_backend_pid() and state = 'active'"
            while await value(watch, sql) == 0:
                pass
        await c.cancel_safe(timeout=20)
        try:
            await task
            raise AssertionError("no error")
        except errors.QueryCanceled:
            pass
        assert await value(c, "select 'alive'") == "alive"
        # What asyncio cancels is cancelled on the server.
        try:
            await asyncio.wait_for(c.execute("select pg_sleep(4)"), 0.2)
            raise AssertionError("no error")
        except (TimeoutError, asyncio.TimeoutError):
            pass
        assert await value(c, "select 'alive'") == "alive"


async def lost():
    # A server connection that ends is not the client's.
    async with await connect() as c:
        me = await value(c, "select pg_backend_pid()")
        try:
            await c.execute("select pg_terminate_backend(%s)", (me,))
        except psycopg.Error as e:
            assert e.sqlstate in ("57P01", "08007"), e.sqlstate
        if not c.closed:
            assert await value(c, "select 'alive'") == "alive"


asyncio.run(main())
