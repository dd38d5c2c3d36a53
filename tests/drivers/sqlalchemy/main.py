"""SQLAlchemy on $DRIVER, psycopg or asyncpg, as they come: tables, many types, the ORM, transactions, savepoints,
batches, streaming, reflection, isolation levels, errors, timeouts, its pool (pre-ping), forty at once.
"""

import asyncio
import datetime
import decimal
import os
import threading
import uuid

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

TABLE = os.environ["PGTABLE"]
DRIVER = os.environ["DRIVER"]
SESSION = os.environ["POOL_MODE"] != "transaction"
URL = sa.URL.create(f"postgresql+{DRIVER}", os.environ["PGUSER"], os.environ["PGPASSWORD"], os.environ["PGHOST"],
                    int(os.environ["PGPORT"]), os.environ["PGDATABASE"])


class Base(orm.DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = TABLE
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str | None]
    amount: orm.Mapped[decimal.Decimal | None] = orm.mapped_column(sa.Numeric(10, 2))
    raw: orm.Mapped[bytes | None]
    at: orm.Mapped[datetime.datetime | None] = orm.mapped_column(sa.DateTime(timezone=True))
    tags: orm.Mapped[list[str] | None] = orm.mapped_column(postgresql.ARRAY(sa.Text))
    data: orm.Mapped[dict | None] = orm.mapped_column(postgresql.JSONB)
    key: orm.Mapped[uuid.UUID | None]
    took: orm.Mapped[datetime.timedelta | None]
    big: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)
    parts: orm.Mapped[list["Part"]] = orm.relationship(back_populates="thing", cascade="all, delete-orphan")


class Part(Base):
    __tablename__ = f"{TABLE}_part"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    label: orm.Mapped[str]
    thing_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(f"{TABLE}.id"))
    thing: orm.Mapped[Thing] = orm.relationship(back_populates="parts")


def thing(n: int) -> Thing:
    return Thing(name=None if n % 7 == 0 else f"näme {n} 🐘", amount=decimal.Decimal(f"{n}.50"), raw=bytes([n, 0, 255]),
                 at=datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), tags=["a", str(n)], data={"n": n},
                 key=uuid.UUID(int=n), took=datetime.timedelta(minutes=n), big=2**40 + n,
                 parts=[Part(label=f"{n}/{part}") for part in range(2)])


def expect(state: str, connection: sa.Connection, statement: sa.Executable, *parameters: object) -> None:
    try:
        connection.execute(statement, *parameters)
    except sa.exc.DBAPIError as told:
        is_state = getattr(told.orig, "sqlstate", None)
        assert is_state == state, (is_state, told)
        print(state)
    else:
        raise SystemExit(f"no error {state}")


def ordinary_work(connection: sa.Connection) -> None:
    Base.metadata.create_all(connection)
    connection.commit()
    with orm.Session(connection) as session:
        session.add_all([thing(n) for n in range(100)])
        session.commit()
        for one in session.scalars(sa.select(Thing).where(Thing.id.in_([1, 2, 78])).order_by(Thing.id)):
            print(one.id, one.name, one.amount, one.raw, one.at.astimezone(datetime.timezone.utc), one.tags, one.data,
                  one.key, one.took, one.big, [part.label for part in one.parts])
        one = session.get_one(Thing, 5)
        one.data = {"changed": True}
        del one.parts[0]
        session.commit()
        session.add(Thing(id=1))
        try:
            session.flush()
        except sa.exc.IntegrityError:
            session.rollback()
        with session.begin_nested():
            session.add(Thing(id=1000, name="kept"))
        try:
            with session.begin_nested():
                session.add(Thing(id=1000, name="twice"))
                session.flush()
        except sa.exc.IntegrityError:
            pass
        session.commit()
        print(session.execute(sa.select(Thing.name, Thing.data).where(Thing.id.in_([5, 1000])).order_by(Thing.id)).all())
        print(session.scalar(sa.select(sa.func.count()).select_from(Part)))
    print("orm")

    table = Thing.__table__
    connection.execute(table.update().where(table.c.id < 10).values(name="changed"))
    connection.rollback()
    assert connection.scalar(sa.select(sa.func.count()).where(table.c.name == "changed")) == 0
    connection.commit()
    expect("23505", connection, table.insert(), {"id": 1})
    expect("25P02", connection, sa.text("select 1"))
    connection.rollback()
    expect("22012", connection, sa.text("select 1/(:n - 1)"), {"n": 1})
    connection.rollback()
    expect("42P01", connection, sa.text("select * from nowhere"))
    connection.rollback()
    print("transactions and errors")

    returned = connection.execute(table.insert().returning(table.c.id), [{"id": 2000 + n, "name": f"många {n}"} for n in range(3000)])
    assert len(returned.all()) == 3000
    connection.execute(table.update().where(table.c.id == sa.bindparam("which")).values(name=sa.bindparam("to")),
                       [{"which": 2000 + n, "to": f"batch {n}"} for n in range(200)])
    connection.commit()
    stream = connection.execute(sa.select(table.c.id, table.c.name).where(table.c.id >= 2000).order_by(table.c.id),
                                execution_options={"stream_results": True, "yield_per": 500})
    assert [len(part) for part in stream.partitions()] == [500] * 6
    connection.commit()
    for _ in range(2):
        for n in range(150):
            assert connection.scalar(sa.text(f"select cast(:n as int) + {n}"), {"n": n}) == 2 * n
            connection.commit()
    large = "x" * 3_000_000
    assert connection.scalar(sa.select(sa.cast(large, sa.Text))) == large
    connection.commit()
    print("batches and streams")

    found = sa.inspect(connection)
    print(found.get_columns(TABLE)[1]["type"], found.get_pk_constraint(TABLE)["constrained_columns"],
          found.get_foreign_keys(f"{TABLE}_part")[0]["referred_table"] == TABLE)
    connection.commit()

    everything = sa.text(f"select * from {TABLE} where id = :id")
    for _ in range(7):  # psycopg prepares what it has seen five times
        assert len(connection.execute(everything, {"id": 1000}).one()) == 10
        connection.commit()
    connection.execute(sa.text(f"alter table {TABLE} add column more int default 7"))
    connection.commit()
    try:
        assert len(connection.execute(everything, {"id": 1000}).one()) == 11
    except sa.exc.DBAPIError as told:
        connection.rollback()
        assert getattr(told.orig, "sqlstate", None) == "0A000" or "InvalidCachedStatement" in str(told), told
        # psycopg goes on with the statement that it has.
        if DRIVER == "asyncpg":
            assert len(connection.execute(everything, {"id": 1000}).one()) == 11
    connection.commit()
    assert connection.scalar(sa.select(table.c.name).where(table.c.id == 1000)) == "kept"
    connection.commit()
    print("reflection and alter table")

    connection.execute(sa.text("set local statement_timeout = '100ms'"))
    expect("57014", connection, sa.text("select pg_sleep(20)"))
    connection.rollback()
    assert connection.scalar(sa.text("show statement_timeout")) == "0"
    connection.commit()
    print("timeout")


def isolated(connection: sa.Connection) -> None:
    print(connection.scalar(sa.text("show transaction_isolation")), connection.get_isolation_level())
    connection.rollback()


def terminated(connection: sa.Connection) -> None:
    """Its connection dies in its hands; the pool's others die unseen, which pre-ping is to notice."""
    try:
        connection.execute(sa.text("select pg_terminate_backend(pg_backend_pid())"))
        raise SystemExit("it is still there")
    except sa.exc.DBAPIError as told:
        print("invalidated:", told.connection_invalidated)


def alive(connection: sa.Connection) -> None:
    assert connection.scalar(sa.text("select cast(:n as int)"), {"n": 3}) == 3


def change(connection: sa.Connection, number: int) -> None:
    """What each of the forty does."""
    for n in range(10):
        with connection.begin():
            by = connection.scalar(
                sa.text(f"update {TABLE} set name = :name where id = :id returning name"), {"name": f"by {number}", "id": number + 1})
            assert by == f"by {number}", by
            assert connection.scalar(sa.text(f"select cast(:n as int) + {number}"), {"n": n}) == n + number


OPTIONS = {"pool_size": 4 if SESSION else 40, "max_overflow": 0, "pool_pre_ping": True}
LEVELS = ["AUTOCOMMIT", "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"]


def with_threads() -> None:
    engine = sa.create_engine(URL, **OPTIONS)

    def use(work, *arguments, **options):
        with engine.connect() as connection:
            work(connection.execution_options(**options), *arguments)

    use(ordinary_work)
    for level in LEVELS:
        use(isolated, isolation_level=level)
    use(terminated)
    use(alive)
    problems = []

    def one(number):
        try:
            use(change, number)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    engine.dispose()


async def with_tasks() -> None:
    engine = create_async_engine(URL, **OPTIONS)

    async def use(work, *arguments, **options):
        async with engine.connect() as connection:
            await connection.execution_options(**options)
            await connection.run_sync(work, *arguments)

    await use(ordinary_work)
    for level in LEVELS:
        await use(isolated, isolation_level=level)
    await use(terminated)
    await use(alive)
    await asyncio.gather(*[use(change, n) for n in range(40)])
    await engine.dispose()


if DRIVER == "psycopg":
    with_threads()
else:
    asyncio.run(with_tasks())
print("forty at once")
print("done")
