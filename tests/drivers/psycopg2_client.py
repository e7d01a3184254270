"""What applications do with psycopg2, through the proxy that libpq's environment variables point at."""

import io
import select
import threading

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool
from psycopg2 import errors


def main():
    with connect() as c, c.cursor() as cur:
        cur.execute("create table items (id serial primary key, name text, n int)")
    tests = (basics, transactions, named_cursors, copies, values, adaptation, large, pool, listen, cancel, asynchronous, settings, two_phase)
    for test in tests:
        test()
        print("ok", test.__name__)
    print("done")


def connect(autocommit=False, **options):
    c = psycopg2.connect("", **options)
    c.autocommit = autocommit
    return c


def one(c, sql, parameters=None):
    with c.cursor() as cur:
        cur.execute(sql, parameters)
        return cur.fetchone()[0]


def basics():
    c = connect(autocommit=True)
    assert one(c, "select %s + 1", (41,)) == 42
    with c.cursor() as cur:
        cur.execute("insert into items (name, n) values ('a', 1), ('b', 2)")
        assert cur.rowcount == 2 and cur.statusmessage == "INSERT 0 2"
        cur.executemany("insert into items (name, n) values (%s, %s)", [(f"m{i}", i) for i in range(100)])
        # Several statements in one string: the answer is the last one's.
        cur.execute("select 1; insert into items (n) values (7); select 'last'")
        assert cur.fetchone() == ("last",)
        cur.execute("select n, name from items where name = 'a'")
        assert [column.name for column in cur.description] == ["n", "name"]
    expect(errors.DivisionByZero, c, "select 1/0")
    expect(errors.UndefinedTable, c, "select * from no_such_table")
    expect(errors.UniqueViolation, c, "insert into items (id) values (1)")
    expect(psycopg2.ProgrammingError, c, "")
    with c.cursor() as cur:
        cur.execute("do $$ begin raise notice 'hear me'; end $$")
    assert c.notices[-1].endswith("hear me\n"), c.notices
    assert c.server_version >= 130000 and c.get_parameter_status("server_encoding") == "UTF8"
    c.close()


def transactions():
    c = connect()
    with c:
        with c.cursor() as cur:
            cur.execute("insert into items (name, n) values ('t', 1000)")
            cur.execute("savepoint inner_one")
            try:
                cur.execute("select 1/0")
            except errors.DivisionByZero:
                cur.execute("rollback to inner_one")
            cur.execute("insert into items (name, n) values ('t', 1001)")
    try:
        with c, c.cursor() as cur:
            cur.execute("insert into items (name, n) values ('t', 1002)")
            raise KeyError
    except KeyError:
        pass
    assert one(c, "select array_agg(n order by n) from items where n >= 1000") == [1000, 1001]
    c.commit()
    expect(errors.DivisionByZero, c, "select 1/0")
    expect(errors.InFailedSqlTransaction, c, "select 1")
    assert c.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_INERROR
    c.rollback()
    for level, name in ((1, "read committed"), (2, "repeatable read"), (3, "serializable")):
        c.set_session(isolation_level=level, readonly=True, deferrable=True)
        assert one(c, "show transaction_isolation") == name
        expect(errors.ReadOnlySqlTransaction, c, "insert into items (n) values (1)")
        c.rollback()
    # Outside of psycopg2's own transactions it sets the session's defaults, which have to follow it.
    c.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=True)
    assert one(c, "show transaction_isolation") == "serializable"
    expect(errors.ReadOnlySqlTransaction, c, "insert into items (n) values (1)")
    d = connect(autocommit=True)
    for _ in range(3):
        assert one(d, "show transaction_isolation") == "read committed"
        assert one(c, "show transaction_isolation") == "serializable"
    c.close()
    d.close()


def named_cursors():
    c = connect()
    with c.cursor("walk") as cur:
        cur.itersize = 33
        cur.execute("select n from generate_series(1, 1000) n")
        assert sum(row[0] for row in cur) == 500500
    with c.cursor("walk", scrollable=True) as cur:
        cur.execute("select n from generate_series(1, 10) n")
        cur.scroll(5)
        assert cur.fetchone() == (6,)
        cur.scroll(0, mode="absolute")
        assert cur.fetchmany(2) == [(1,), (2,)]
    c.commit()
    # WITH HOLD outlives its transaction, and what others do meanwhile.
    held = c.cursor("held", withhold=True)
    held.execute("select n from generate_series(1, 1000) n")
    c.commit()
    other = connect(autocommit=True)
    for i in range(10):
        assert held.fetchone() == (i + 1,)
        c.commit()
        assert one(other, "select count(*) from pg_cursors") == 0
    held.close()
    c.commit()
    c.close()
    other.close()


def copies():
    c = connect(autocommit=True)
    with c.cursor() as cur:
        cur.execute("create table copied (n int, s text)")
        text = "".join(f"{i}\trow {i}\n" for i in range(20000))
        cur.copy_from(io.StringIO(text), "copied")
        cur.copy_expert("copy copied from stdin with (format csv, header)", io.StringIO("n,s\n20000,\"a, b\"\n"))
        out = io.StringIO()
        cur.copy_expert("copy (select * from copied where n < 20000 order by n) to stdout", out)
        assert out.getvalue() == text
        out = io.StringIO()
        cur.copy_to(out, "copied", columns=("s",))
        assert out.getvalue().count("\n") == 20001
        for wrong in ("no number\tx\n", "1\tx\tmore\n", text + "no number\tx\n"):
            try:
                cur.copy_from(io.StringIO(wrong), "copied")
                raise AssertionError("no error")
            except (errors.InvalidTextRepresentation, errors.BadCopyFileFormat):
                pass

        class Broken:
            def read(self, size):
                raise RuntimeError("mine")

        try:
            cur.copy_expert("copy copied from stdin", Broken())
            raise AssertionError("no error")
        except (RuntimeError, errors.QueryCanceled):
            pass
        assert one(c, "select count(*) from copied") == 20001
    c.close()


def values():
    c = connect()
    with c, c.cursor() as cur:
        rows = [(f"v{i}", i) for i in range(5000)]
        psycopg2.extras.execute_values(cur, "insert into items (name, n) values %s", rows, page_size=700)
        psycopg2.extras.execute_batch(cur, "update items set n = n + 1 where name = %s", [(f"v{i}",) for i in range(100)])
        found = psycopg2.extras.execute_values(
            cur, "insert into items (name, n) values %s returning n", [("w", i) for i in range(250)], fetch=True)
        assert [row[0] for row in found] == list(range(250))
        cur.execute("select sum(n) from items where name like 'v%'")
        assert cur.fetchone() == (sum(range(5000)) + 100,)
    # SQL-level PREPARE is the only kind that psycopg2 can.
    c.autocommit = True
    d = connect(autocommit=True)
    for i, connection in enumerate((c, d)):
        with connection.cursor() as cur:
            cur.execute(f"prepare mine as select 'client {i}', $1::int")
    for turn in range(5):
        for i, connection in enumerate((c, d)):
            with connection.cursor() as cur:
                cur.execute("execute mine (%s)", (turn,))
                assert cur.fetchone() == (f"client {i}", turn)
    with c.cursor() as cur:
        cur.execute("deallocate mine")
    expect(errors.InvalidSqlStatementName, c, "execute mine (1)")
    assert one(d, "execute mine (1)") == "client 1"
    c.close()
    d.close()


def adaptation():
    from datetime import date, datetime, timedelta, timezone
    from decimal import Decimal

    psycopg2.extras.register_uuid()
    c = connect(autocommit=True)
    with c.cursor() as cur:
        cur.execute("create type card as (suit text, rank int)")
        cur.execute("create extension if not exists hstore")
    # These ask the catalog.
    psycopg2.extras.register_composite("card", c)
    psycopg2.extras.register_hstore(c)
    assert one(c, "select row('hearts', 7)::card") == ("hearts", 7)
    assert one(c, "select 'a=>1'::hstore") == {"a": "1"}
    for value in (2**60, "سلام 🂡 '\"\\", Decimal("1.50"), True, None, 0.5, date(2026, 11, 21), timedelta(days=1, seconds=2),
                  datetime(2026, 11, 21, tzinfo=timezone.utc), [1, 2, None]):
        with c.cursor() as cur:
            cur.execute("select %s", (value,))
            assert cur.fetchone()[0] == value, value
    assert bytes(one(c, "select %s", (psycopg2.Binary(bytes(range(256))),))) == bytes(range(256))
    assert one(c, "select %s::jsonb", (psycopg2.extras.Json({"a": [1, None]}),)) == {"a": [1, None]}
    with connect(autocommit=True, cursor_factory=psycopg2.extras.RealDictCursor) as d, d.cursor() as cur:
        cur.execute("select 1 as a, 'x' as b")
        assert cur.fetchone() == {"a": 1, "b": "x"}
    # Large objects live within a transaction.
    c.autocommit = False
    lob = c.lobject(0, "wb")
    lob.write(b"x" * 100000)
    lob.close()
    again = c.lobject(lob.oid, "rb")
    again.seek(99990)
    assert again.read() == b"x" * 10
    again.unlink()
    c.commit()
    c.close()


def large():
    c = connect(autocommit=True)
    with c.cursor() as cur:
        cur.execute("select n, repeat('x', 1000) from generate_series(1, 20000) n")
        assert all(len(s) == 1000 and n == i + 1 for i, (n, s) in enumerate(cur))
        text = "y" * 5_000_000
        cur.execute("select %s", (text,))
        assert cur.fetchone() == (text,)
    c.close()


def pool():
    with_pool = psycopg2.pool.ThreadedConnectionPool(2, 8, "")
    failures = []

    def work(i):
        try:
            for n in range(20):
                c = with_pool.getconn()
                with c, c.cursor() as cur:
                    cur.execute("insert into items (name, n) values (%s, %s)", (f"pool {i}", n))
                    cur.execute("select count(*) from items where name = %s", (f"pool {i}",))
                    assert cur.fetchone() == (n + 1,)
                with_pool.putconn(c)
        except BaseException as e:
            failures.append(repr(e))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with_pool.closeall()
    assert not failures, failures


def listen():
    listener, speaker = connect(autocommit=True), connect(autocommit=True)
    with listener.cursor() as cur, speaker.cursor() as other:
        cur.execute("listen events")
        other.execute("notify events, 'one'")
        other.execute("select pg_notify('events', %s)", ("two",))
        heard = []
        while len(heard) < 2:
            assert select.select([listener], [], [], 30)[0], heard
            listener.poll()
            heard += [(n.channel, n.payload) for n in listener.notifies]
            listener.notifies.clear()
        assert heard == [("events", "one"), ("events", "two")]
        cur.execute("unlisten events")
        other.execute("notify events, 'three'")
        assert one(listener, "select 1") == 1 and not listener.notifies
    listener.close()
    speaker.close()


def cancel():
    c = connect(autocommit=True)
    watch = connect(autocommit=True)

    def canceller():
        while one(watch, "select count(*) from pg_stat_activity where query like '%pg_sleep(601)' and pid <> pg_backend_pid() and state = 'active'") == 0:
            pass
        c.cancel()

    thread = threading.Thread(target=canceller)
    thread.start()
    expect(errors.QueryCanceled, c, "/* hakem: primary */ select pg_sleep(601)")
    thread.join()
    assert one(c, "select 'alive'") == "alive"
    with c.cursor() as cur:
        cur.execute("set statement_timeout = 200")
    expect(errors.QueryCanceled, c, "select pg_sleep(602)")
    assert one(watch, "show statement_timeout") == "0"
    c.close()
    watch.close()


def asynchronous():
    c = psycopg2.connect("", async_=1)
    psycopg2.extras.wait_select(c)
    cur = c.cursor()
    for i in range(20):
        cur.execute("select %s, repeat('x', 100000)", (i,))
        psycopg2.extras.wait_select(c)
        assert cur.fetchone() == (i, "x" * 100000)
    c.close()


def settings():
    c, d = connect(autocommit=True, options="-c work_mem=5MB -c search_path=pg_catalog,public", application_name="cards"), connect(autocommit=True)
    with c.cursor() as cur:
        cur.execute("set datestyle to 'German'; set timezone to 'Asia/Tehran'")
    # psycopg2 sets client_encoding and remembers what the server reported.
    c.set_client_encoding("LATIN1")
    for _ in range(5):
        assert one(c, "show work_mem") == "5MB" and one(d, "show work_mem") != "5MB"
        assert one(c, "select to_char(timestamptz '2026-11-21 00:00+00', 'HH24:MI')") == "03:30"
        assert one(d, "show datestyle") == "ISO, MDY"
        assert one(c, "select 'é'") == "é" and c.encoding == "LATIN1"
    c.set_client_encoding("UTF8")
    assert one(c, "select '🂡'") == "🂡"
    c.reset()
    assert one(c, "show work_mem") == "5MB", "reset goes back to what the session began with"
    assert one(c, "show timezone") == one(d, "show timezone")
    c.close()
    d.close()


def two_phase():
    c = connect()
    if int(one(c, "show max_prepared_transactions")) == 0:
        c.rollback()
        c.tpc_begin(c.xid(1, "gtrid", "bqual"))
        expect(psycopg2.OperationalError, c, "prepare transaction 'x'")
        c.tpc_rollback()
    c.close()


def expect(error, c, sql):
    try:
        with c.cursor() as cur:
            cur.execute(sql)
    except error:
        return
    raise AssertionError(f"no {error}")


if __name__ == "__main__":
    main()
