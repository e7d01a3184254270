"""What applications do with psycopg 3, through the proxy that libpq's environment variables point at."""

import threading

import psycopg
from psycopg import errors
from psycopg.rows import dict_row


def main():
    with psycopg.connect(autocommit=True) as c:
        c.execute("create table items (id serial primary key, name text, n int)")
    for test in (basics, transactions, prepared, pipeline, cursors, copies, statement_names, adaptation, parameters, threads):
        test()
        print("ok", test.__name__)
    print("done")


def basics():
    with psycopg.connect(autocommit=True) as c:
        assert c.execute("select 1").fetchone() == (1,)
        assert c.execute("select %s::int + %s::int", (2, 3)).fetchone() == (5,)
        try:
            c.execute("select 1/0")
            raise AssertionError("no error")
        except errors.DivisionByZero as e:
            assert e.sqlstate == "22012"
        assert c.info.server_version >= 130000
        assert c.info.parameter_status("server_encoding") == "UTF8"
        notices = []
        c.add_notice_handler(lambda d: notices.append(d.message_primary))
        c.execute("do $$ begin raise notice 'hear me'; end $$")
        assert notices == ["hear me"], notices
        cur = c.cursor(row_factory=dict_row)
        assert cur.execute("select 1 as a, 'x' as b").fetchone() == {"a": 1, "b": "x"}
        cur.executemany("insert into items (name, n) values (%s, %s)", [(f"m{i}", i) for i in range(100)])
        assert cur.rowcount == 100
        assert c.execute("insert into items (name, n) values ('r', -1) returning n").fetchone() == (-1,)
        assert c.execute("select count(*) from items").fetchone() == (101,)


def transactions():
    with psycopg.connect() as c:
        with c.transaction():
            c.execute("insert into items (name, n) values ('t', 1000)")
            try:
                with c.transaction():
                    c.execute("insert into items (name, n) values ('inner', 1001)")
                    raise psycopg.Rollback()
            except psycopg.Rollback:
                raise AssertionError("Rollback leaves its block silently")
        assert c.execute("select array_agg(n) from items where n >= 1000").fetchone() == ([1000],)
        c.rollback()
        try:
            with c.transaction():
                c.execute("insert into items (name, n) values ('t', 2000)")
                c.execute("select * from no_such_table")
        except errors.UndefinedTable:
            pass
        assert c.execute("select count(*) from items where n = 2000").fetchone() == (0,)
        c.commit()
        # In a failed transaction that psycopg did not open by a block.
        try:
            c.execute("select 1/0")
        except errors.DivisionByZero:
            pass
        try:
            c.execute("select 1")
            raise AssertionError("no error")
        except errors.InFailedSqlTransaction:
            c.rollback()
    for level in psycopg.IsolationLevel:
        with psycopg.connect() as c:
            c.isolation_level = level
            c.execute("insert into items (name, n) values ('level', %s)", (3000 + level,))
            shown = c.execute("show transaction_isolation").fetchone()[0]
            assert shown == level.name.lower().replace("_", " "), (shown, level)
    # A session of its own may not see what others wrote a moment ago, unless it asks for that.
    with psycopg.connect(options="-c hakem.consistency=global") as c:
        c.read_only = True
        assert c.execute("select count(*) from items where n >= 3000").fetchone() == (4,)
        try:
            c.execute("insert into items (name, n) values ('ro', 1)")
            raise AssertionError("a read-only transaction wrote")
        except errors.ReadOnlySqlTransaction:
            pass


def prepared():
    with psycopg.connect(autocommit=True) as c:
        for prepare_threshold in (0, 2, 5):
            c.prepare_threshold = prepare_threshold
            for i in range(10):
                assert c.execute("select %s::int * 2", (i,)).fetchone() == (2 * i,)
                assert c.execute("insert into items (name, n) values ('p', %s) returning n", (i,)).fetchone() == (i,)
        c.prepared_max = 3
        for i in range(10):
            assert c.execute(f"select {i} + %s::int", (1,), prepare=True).fetchone() == (i + 1,)
        # The result type changes under a prepared statement.
        c.execute("create table shape (a int)")
        c.execute("insert into shape values (1)")
        assert c.execute("select * from shape", prepare=True).fetchone() == (1,)
        c.execute("deallocate all")


def pipeline():
    with psycopg.connect(autocommit=True) as c:
        with c.pipeline():
            cursors = [c.execute("select %s::int", (i,)) for i in range(200)]
            writes = [c.execute("insert into items (name, n) values ('pipe', %s) returning n", (i,)) for i in range(50)]
        assert [cur.fetchone()[0] for cur in cursors] == list(range(200))
        assert [cur.fetchone()[0] for cur in writes] == list(range(50))
        with c.pipeline() as p:
            a = c.execute("select 1")
            p.sync()
            b = c.execute("select 2")
            assert (a.fetchone(), b.fetchone()) == ((1,), (2,))
        # An error aborts what follows up to the next Sync, and the connection goes on.
        try:
            with c.pipeline() as p:
                c.execute("select 1/0")
                c.execute("insert into items (name, n) values ('never', 1)")
                p.sync()
            raise AssertionError("no error")
        except (errors.DivisionByZero, errors.PipelineAborted):
            pass
        assert c.execute("select count(*) from items where name = 'never'").fetchone() == (0,)
        with c.pipeline(), c.transaction():
            c.execute("insert into items (name, n) values ('pipe-tx', 1)")
            assert c.execute("select count(*) from items where name = 'pipe-tx'").fetchone() == (1,)
        assert c.execute("select count(*) from items where name = 'pipe-tx'").fetchone() == (1,)


def cursors():
    with psycopg.connect() as c:
        with c.cursor(name="walk") as cur:
            cur.itersize = 100
            cur.execute("select generate_series(1, 1000)")
            assert sum(row[0] for row in cur) == 500500
        with c.cursor(name="walk", scrollable=True) as cur:
            cur.execute("select generate_series(1, 10)")
            cur.scroll(5)
            assert cur.fetchone() == (6,)
            cur.scroll(-2)
            assert cur.fetchone() == (5,)
        c.commit()
    with psycopg.connect(autocommit=True) as c:
        with c.cursor(name="held", withhold=True) as cur:
            cur.execute("select generate_series(1, 10)")
            assert cur.fetchmany(3) == [(1,), (2,), (3,)]
            assert c.execute("select 'between'").fetchone() == ("between",)
            assert cur.fetchone() == (4,)
        # Row by row, without a cursor on the server.
        assert sum(row[0] for row in c.cursor().stream("select generate_series(1, 1000)")) == 500500


def copies():
    with psycopg.connect(autocommit=True) as c:
        c.execute("create table copied (n int, s text)")
        with c.cursor().copy("copy copied from stdin") as copy:
            for i in range(20000):
                copy.write_row((i, f"row {i}"))
        with c.cursor().copy("copy copied to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert sum(1 for _ in copy.rows()) == 20000
        with c.cursor().copy("copy copied from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((20000, "binary"))
        assert c.execute("select count(*) from copied").fetchone() == (20001,)
        try:
            with c.cursor().copy("copy copied from stdin") as copy:
                copy.write_row((1, "x"))
                raise RuntimeError("mine")
        except RuntimeError:
            pass
        try:
            with c.cursor().copy("copy copied from stdin") as copy:
                copy.write(b"no number\tx\n")
            raise AssertionError("no error")
        except errors.InvalidTextRepresentation:
            pass
        assert c.execute("select count(*) from copied").fetchone() == (20001,)


def statement_names():
    # Every psycopg connection calls its statements _pg3_0, _pg3_1, ...
    connections = [psycopg.connect(autocommit=True, prepare_threshold=0) for _ in range(6)]
    for turn in range(3):
        for i, c in enumerate(connections):
            assert c.execute(f"select 'client {i}', %s::int", (turn,)).fetchone() == (f"client {i}", turn)
    for c in connections:
        c.close()


def adaptation():
    from datetime import date, datetime, timezone
    from decimal import Decimal
    from uuid import UUID

    values = [
        ("int8", 2**60), ("text", "سلام 🂡"), ("bytea", bytes(range(256))), ("numeric", Decimal("1.50")),
        ("date", date(2026, 11, 21)), ("timestamptz", datetime(2026, 11, 21, tzinfo=timezone.utc)),
        ("uuid", UUID(int=7)), ("int4[]", [1, 2, None]), ("bool", True), ("text", None), ("jsonb", None),
    ]
    with psycopg.connect(autocommit=True) as c:
        for binary in (False, True):
            cur = c.cursor(binary=binary)
            for kind, value in values:
                found = cur.execute(f"select %s::{kind}", (value,)).fetchone()[0]
                assert found == value, (kind, value, found)


def parameters():
    """It reads a moment by the time zone that it was told last."""
    with psycopg.connect(autocommit=True) as c:
        c.execute(
            "create function elsewhere() returns text language sql as "
            "$$ select set_config('TimeZone', 'Asia/Tehran', false) $$"
        )
        for statement in ("select elsewhere()", "set time zone 'Asia/Tokyo'", "select elsewhere()"):
            c.execute(statement)
            told = c.info.parameter_status("TimeZone")
            assert c.execute("show timezone").fetchone() == (told,), statement
            moment = c.execute("select timestamptz '2026-11-29 12:00 UTC'").fetchone()[0]
            assert (moment.tzinfo.key, moment.timestamp()) == (told, 1795953600), (moment, statement)
        with c.transaction():
            c.execute("select elsewhere()")
            assert c.info.parameter_status("TimeZone") == "Asia/Tehran"
        assert c.execute("show timezone").fetchone() == (c.info.parameter_status("TimeZone"),)


def threads():
    failures = []

    def work(i):
        try:
            with psycopg.connect(autocommit=True) as c:
                for n in range(30):
                    c.execute("insert into items (name, n) values (%s, %s)", (f"thread {i}", n))
                    # A session sees its own writes, wherever they are read.
                    count = c.execute("select count(*) from items where name = %s", (f"thread {i}",)).fetchone()[0]
                    assert count == n + 1, (count, n)
        except BaseException as e:
            failures.append(repr(e))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures


if __name__ == "__main__":
    main()
