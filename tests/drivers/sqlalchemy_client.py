"""What applications do with SQLAlchemy, sync over psycopg and asynchronous over asyncpg, through the proxy that libpq's environment
variables point at."""

import asyncio
import io
import os
import threading

import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncAttrs, async_sessionmaker, create_async_engine


class Base(AsyncAttrs, orm.DeclarativeBase):
    pass


class Player(Base):
    __tablename__ = "players"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    tricks: orm.Mapped[int] = orm.mapped_column(default=0)
    extra: orm.Mapped[dict | None] = orm.mapped_column(JSONB)
    tags: orm.Mapped[list[str] | None] = orm.mapped_column(ARRAY(sa.Text))
    version: orm.Mapped[int] = orm.mapped_column(nullable=False)
    cards: orm.Mapped[list["Card"]] = orm.relationship(back_populates="player", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Card(Base):
    __tablename__ = "cards"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    suit: orm.Mapped[str] = orm.mapped_column(ENUM("spades", "hearts", name="suit"))
    player_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("players.id"), index=True)
    player: orm.Mapped[Player] = orm.relationship(back_populates="cards")


def main():
    for driver in ("psycopg", "psycopg2"):
        engine = sa.create_engine(url(driver), pool_size=4, max_overflow=4, pool_pre_ping=True)
        for test in (schema, session, savepoints, bulk, streaming, isolation, at_once, core, beneath):
            test(engine)
            print("ok", driver, test.__name__)
        Base.metadata.drop_all(engine)
        engine.dispose()
    asyncio.run(asynchronous())
    print("done")


def url(driver):
    e = os.environ
    return sa.URL.create(f"postgresql+{driver}", e["PGUSER"], e["PGPASSWORD"], e["PGHOST"], int(e["PGPORT"]), e["PGDATABASE"])


def schema(engine):
    Base.metadata.create_all(engine)
    # It asks the catalog whether they are there.
    Base.metadata.create_all(engine)
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) >= {"players", "cards"}
    assert [key["referred_table"] for key in inspector.get_foreign_keys("cards")] == ["players"]
    assert inspector.get_enums()[0]["labels"] == ["spades", "hearts"]
    reflected = sa.MetaData()
    reflected.reflect(engine)
    assert {column.name for column in reflected.tables["players"].columns} == {"id", "name", "tricks", "extra", "tags", "version"}
    assert [index.name for index in reflected.tables["cards"].indexes] == ["ix_cards_player_id"]


def session(engine):
    with orm.Session(engine) as s:
        s.add(Player(name="ada", extra={"a": [1, None]}, tags=["x", "y"], cards=[Card(suit="hearts"), Card(suit="spades")]))
        s.commit()
        ada = s.scalars(sa.select(Player).where(Player.name == "ada").options(orm.selectinload(Player.cards))).one()
        assert (ada.extra, ada.tags, sorted(card.suit for card in ada.cards)) == ({"a": [1, None]}, ["x", "y"], ["hearts", "spades"])
        ada.tricks += 5
        del ada.cards[0]
        s.commit()
        assert s.scalar(sa.select(sa.func.count()).select_from(Card)) == 1
        # Another session's change: the version no longer matches.
        with orm.Session(engine) as other:
            other.get(Player, ada.id).tricks = 7
            other.commit()
        s.refresh(ada)
        assert ada.tricks == 7
        with orm.Session(engine) as other:
            again = other.get(Player, ada.id, with_for_update=True)
            again.tricks = 8
            other.commit()
        ada.tricks = 9
        try:
            s.commit()
            raise AssertionError("a stale row was written")
        except orm.exc.StaleDataError:
            s.rollback()
        assert ada.tricks == 8


def savepoints(engine):
    with orm.Session(engine) as s, s.begin():
        try:
            with s.begin_nested():
                s.add(Player(name="ada"))
                s.flush()
            raise AssertionError("no error")
        except exc.IntegrityError as e:
            assert getattr(e.orig, "sqlstate", None) or e.orig.pgcode == "23505"
        with s.begin_nested():
            s.add(Player(name="bob"))
    with engine.connect() as c:
        assert c.scalar(sa.text("select count(*) from players where name = 'bob'")) == 1
        c.rollback()
        outer = c.begin()
        for i in range(20):
            inner = c.begin_nested()
            c.execute(sa.insert(Player).values(name=f"s{i}", version=1))
            inner.rollback() if i % 2 else inner.commit()
        outer.commit()
        assert c.scalar(sa.text("select count(*) from players where name like 's%'")) == 10


def bulk(engine):
    with orm.Session(engine) as s:
        # RETURNING in batches, with the rows' order kept.
        players = [Player(name=f"bulk{i}", tricks=i) for i in range(3000)]
        s.add_all(players)
        s.flush()
        assert [player.id for player in players] == sorted(player.id for player in players)
        s.execute(sa.update(Player).where(Player.tricks > 2990).values(tricks=0))
        s.commit()
        rows = [{"name": f"bulk{i}", "tricks": 1, "version": 1} for i in range(2995, 3005)]
        upsert = insert(Player).on_conflict_do_update(index_elements=["name"], set_={"tricks": 2}).returning(Player.tricks)
        assert sorted(s.scalars(upsert, rows)) == [1] * 5 + [2] * 5
        s.execute(sa.update(Player), [{"id": player.id, "tricks": 3, "version": 1} for player in players[:100]])
        s.commit()
        assert s.scalar(sa.select(sa.func.count()).where(Player.tricks == 3)) >= 100


def streaming(engine):
    with engine.connect() as c:
        # A server-side cursor.
        result = c.execution_options(stream_results=True, max_row_buffer=100).execute(sa.select(Player.id).order_by(Player.id))
        assert len(list(result.scalars())) > 3000
    with orm.Session(engine) as s:
        found = sum(len(part) for part in s.scalars(sa.select(Player).execution_options(yield_per=500)).partitions())
        assert found > 3000


def isolation(engine):
    for level in ("REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as c:
            shown = c.scalar(sa.text("show transaction_isolation"))
            assert shown == ("read committed" if level == "AUTOCOMMIT" else level.lower()), (shown, level)
            c.execute(sa.insert(Player).values(name=f"level {level}", version=1))
            if level != "AUTOCOMMIT":
                c.commit()
    with engine.connect().execution_options(postgresql_readonly=True, postgresql_deferrable=True, isolation_level="SERIALIZABLE") as c:
        assert c.scalar(sa.text("show transaction_read_only")) == "on"
    with engine.connect() as c:
        # What the last one had set is gone.
        assert c.scalar(sa.text("show transaction_read_only")) == "off"
        assert c.scalar(sa.text("show transaction_isolation")) == "read committed"
        assert c.scalar(sa.text("/* hakem: primary */ select count(*) from players where name like 'level %'")) == 4


def at_once(engine):
    failures = []

    def work(i):
        try:
            for n in range(10):
                with orm.Session(engine) as s:
                    s.add(Player(name=f"thread {i} {n}", tricks=n))
                    s.commit()
                    assert s.scalar(sa.select(sa.func.count()).where(Player.name.like(f"thread {i} %"))) == n + 1
        except BaseException as e:
            failures.append(repr(e))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures


def core(engine):
    with engine.begin() as c:
        for i in range(20):
            assert c.execute(sa.select(sa.literal(i) + sa.bindparam("n", type_=sa.Integer)), {"n": i}).scalar() == 2 * i
    for _ in range(3):
        # An error invalidates the transaction, and not the connection.
        with engine.connect() as c:
            try:
                c.execute(sa.text("select 1/0"))
                raise AssertionError("no error")
            except exc.DataError:
                pass
            c.rollback()
            assert c.scalar(sa.text("select 'alive'")) == "alive"


def beneath(engine):
    # What it has no words for is said to the driver beneath, on a connection out of its pool.
    raw = engine.raw_connection()
    driver = raw.driver_connection
    text = "".join(f"{n}\trow {n}\n" for n in range(5000))
    with driver.cursor() as cur:
        cur.execute("create table copied (n int, s text)")
        if engine.driver == "psycopg":
            with cur.copy("copy copied from stdin") as copy:
                copy.write(text)
            with cur.copy("copy copied to stdout") as copy:
                out = b"".join(copy).decode()
        else:
            cur.copy_expert("copy copied from stdin", io.StringIO(text))
            found = io.StringIO()
            cur.copy_expert("copy copied to stdout", found)
            out = found.getvalue()
        assert out == text
        cur.execute("drop table copied")
    raw.commit()
    # Cancelled by another thread, and good for more. One that comes before the statement cancels nothing: so it comes again.
    over = threading.Event()

    def cancel():
        while not over.wait(0.05):
            driver.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with driver.cursor() as cur:
        try:
            cur.execute("select pg_sleep(600)")
            raise AssertionError("it was not cancelled")
        except Exception as error:
            assert getattr(error, "sqlstate", None) == "57014" or getattr(error, "pgcode", None) == "57014", error
    over.set()
    canceller.join()
    raw.rollback()
    # Back to the pool, which rolls back what is open.
    with driver.cursor() as cur:
        cur.execute("insert into players (name, tricks, version) values ('never', 0, 1)")
    raw.close()
    with engine.connect() as c:
        assert c.scalar(sa.text("select count(*) from players where name = 'never'")) == 0


async def asynchronous():
    engine = create_async_engine(url("asyncpg"), pool_size=6, max_overflow=0, pool_pre_ping=True)
    async with engine.begin() as c:
        await c.run_sync(Base.metadata.create_all)
        await c.run_sync(Base.metadata.create_all)
        assert "cards" in await c.run_sync(lambda c: sa.inspect(c).get_table_names())
    make = async_sessionmaker(engine, expire_on_commit=False)

    async def work(i):
        async with make() as s:
            async with s.begin():
                player = Player(name=f"p{i}", tricks=i, cards=[Card(suit="hearts")])
                s.add(player)
                try:
                    async with s.begin_nested():
                        await s.execute(sa.text("select 1/0"))
                except exc.DBAPIError:
                    pass
            again = await s.scalar(sa.select(Player).where(Player.name == f"p{i}"))
            assert again.tricks == i and len(await again.awaitable_attrs.cards) == 1

    await asyncio.gather(*(work(i) for i in range(60)))
    async with make() as s:
        count = 0
        async for _ in await s.stream_scalars(sa.select(Player).order_by(Player.id).execution_options(yield_per=10)):
            count += 1
        assert count == 60
    for level in ("SERIALIZABLE", "AUTOCOMMIT"):
        async with engine.connect() as c:
            c = await c.execution_options(isolation_level=level)
            assert await c.scalar(sa.text("select 1")) == 1
    # DDL under cached statements: SQLAlchemy's dialect knows asyncpg's InvalidCachedStatementError, and drops its cache.
    async with engine.begin() as c:
        await c.execute(sa.text("alter table players add column later int"))
    async with make() as s:
        assert len((await s.scalars(sa.select(Player))).all()) == 60
    async with engine.begin() as c:
        await c.run_sync(Base.metadata.drop_all)
    await engine.dispose()
    print("ok asyncpg")


if __name__ == "__main__":
    main()
