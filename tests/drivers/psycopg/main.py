"""psycopg 3: rows, parameters of many types, transactions, prepared statements, pipeline, COPY, cursors, notices, errors,
cancel, reconnect, notifications (session mode), forty at once.

PREPARE_THRESHOLD is when it prepares a statement under a name; the driver's own, after five uses, where it is not set.
"""

import datetime
import decimal
import hashlib
import os
import threading
import uuid

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

TABLE = os.environ["PGTABLE"]
SESSION = os.environ["POOL_MODE"] != "transaction"
THRESHOLD = {"prepare_threshold": int(os.environ["PREPARE_THRESHOLD"])} if "PREPARE_THRESHOLD" in os.environ else {}


def connect(**options) -> psycopg.Connection:
    connection = psycopg.connect(**options)
    for name, value in THRESHOLD.items():
        setattr(connection, name, value)
    return connection


def expect(state: str, connection: psycopg.Connection, sql: str, *parameters: object) -> None:
    try:
        connection.execute(sql, parameters or None)
    except psycopg.Error as told:
        assert told.sqlstate == state, repr(told)
        print(state, told.diag.message_primary)
    else:
        raise SystemExit(f"no error {state}")


with connect() as connection:
    connection.execute(f"create table {TABLE} (id int primary key, name text, amount numeric, raw bytea, at timestamptz, "
                       "tags text[], data jsonb, key uuid, yes bool, big int8, ratio float8, took interval)")
    connection.commit()
    with connection.cursor() as cursor:
        cursor.executemany(
            f"insert into {TABLE} values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [(n, f"näme {n} 🐘" if n % 7 else None, decimal.Decimal(f"{n}.50"), bytes([n, 0, 255]),
              datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), ["a", str(n)], Jsonb({"n": n}),
              uuid.UUID(int=n), n % 2 == 0, 2**40 + n, n / 8, datetime.timedelta(minutes=n)) for n in range(200)])
    connection.commit()
    for binary in (False, True):
        cursor = connection.cursor(binary=binary)
        for row in cursor.execute(f"select * from {TABLE} where id = any(%s) order by id", ([0, 1, 77],)):
            print(*[value.astimezone(datetime.timezone.utc) if isinstance(value, datetime.datetime) else value for value in row])
    for n in range(1, 7):
        assert connection.execute(f"select name from {TABLE} where id = %s", (n,)).fetchone() == (f"näme {n} 🐘",)
    connection.commit()
    print("rows")

    try:
        with connection.transaction():
            connection.execute(f"delete from {TABLE}")
            connection.execute("select 1/0")
    except errors.DivisionByZero:
        pass
    assert connection.execute(f"select count(*) from {TABLE}").fetchone() == (200,)
    with connection.transaction():
        try:
            with connection.transaction():
                connection.execute(f"insert into {TABLE} (id) values (%s)", (1,))
        except errors.UniqueViolation:
            pass
        connection.execute(f"insert into {TABLE} (id, name) values (1000, 'kept')")
    connection.commit()
    expect("22P02", connection, "select %s::text::int", "x")
    expect("25P02", connection, "select 1")
    expect("25P02", connection, "select %s::int", 1)
    connection.rollback()
    expect("42P01", connection, "select * from nowhere where x = %s", 1)
    connection.rollback()
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    print(connection.execute("show transaction_isolation").fetchone())
    connection.commit()
    connection.isolation_level = None
    print("transactions and savepoints")

    for n in range(10):
        assert connection.execute("select %s::int + 1", (n,)).fetchone() == (n + 1,)
        connection.commit()
    # After a DROP psycopg deallocates all statements and prepares them anew.
    connection.execute("create temp table passing ()")
    connection.execute("drop table passing")
    connection.commit()
    assert connection.execute("select %s::int + 1", (1,)).fetchone() == (2,)
    connection.commit()
    # More than the 100 that it keeps: it drops the oldest by DEALLOCATE, or Close.
    for _ in range(2):
        for n in range(150):
            assert connection.execute(f"select %s::int + {n}", (n,), prepare=True).fetchone() == (2 * n,)
            connection.commit()
    print("prepared statements")

    for _ in range(2):
        with connection.pipeline():
            cursors = [connection.execute(f"select %s::int + {n % 10}", (n,)) for n in range(100)]
            assert [cursor.fetchone()[0] for cursor in cursors] == [n + n % 10 for n in range(100)]
        connection.commit()
    with connection.pipeline() as pipeline:
        try:
            connection.execute("select 1/%s", (0,))
            pipeline.sync()
        except errors.DivisionByZero:
            connection.rollback()
        assert connection.execute("select %s::int", (5,)).fetchone() == (5,)
    connection.commit()
    with connection.pipeline() as pipeline, connection.transaction():
        with connection.cursor() as cursor:
            cursor.executemany(f"insert into {TABLE} (id) values (%s) returning id", [(n,) for n in range(1100, 1200)], returning=True)
            seen = [cursor.fetchone()[0]]
            while cursor.nextset():
                seen.append(cursor.fetchone()[0])
    assert seen == list(range(1100, 1200))
    try:
        with connection.pipeline():
            connection.execute(f"insert into {TABLE} (id) values (1900)")
            connection.execute(f"insert into {TABLE} (id) values (1)")
            connection.execute(f"insert into {TABLE} (id) values (1901)")
    except errors.UniqueViolation:
        connection.rollback()
    assert connection.execute(f"select count(*) from {TABLE} where id >= 1900").fetchone() == (0,)
    connection.commit()
    print("pipeline")

    rows = connection.execute("select n, md5(n::text) from generate_series(1, %s::int) n", (20000,)).fetchall()
    print(len(rows), hashlib.md5("".join(f"{n},{m}" for n, m in rows).encode()).hexdigest())
    streamed = connection.cursor().stream("select n from generate_series(1, %s::int) n", (5000,))
    assert sum(n for n, in streamed) == 12502500
    large = "x" * 3_000_000
    assert connection.execute("select %s::text", (large,)).fetchone() == (large,)
    connection.commit()
    print("large results")

    with connection.cursor() as cursor:
        with cursor.copy(f"copy {TABLE} (id, name) from stdin") as copy:
            for n in range(2000, 5000):
                copy.write_row((n, "copied\tand\nescaped ü"))
        with cursor.copy(f"copy (select id, name from {TABLE} where id >= %s) to stdout", (2000,)) as copy:
            assert sum(row[1] == "copied\tand\nescaped ü" for row in copy.rows()) == 3000
    connection.commit()
    try:
        with connection.cursor().copy(f"copy {TABLE} (id) from stdin") as copy:
            copy.write("no number\n")
    except errors.InvalidTextRepresentation:
        connection.rollback()
    try:
        with connection.cursor().copy(f"copy {TABLE} (id) from stdin") as copy:
            copy.write("9000\n")
            raise KeyError("changed my mind")
    except (KeyError, errors.QueryCanceled):
        connection.rollback()
    assert connection.execute(f"select count(*) from {TABLE} where id = 9000").fetchone() == (0,)
    connection.commit()
    print("copy")

    with connection.cursor("stepwise") as cursor:
        cursor.itersize = 100
        assert sum(1 for _ in cursor.execute(f"select * from {TABLE}")) == 3301
    connection.commit()
    print("server-side cursor")

    notices = []
    connection.add_notice_handler(lambda told: notices.append(f"{told.severity} {told.message_primary}"))
    connection.execute("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
    connection.commit()
    print(notices)

    everything = f"select * from {TABLE} where id = %s"
    for _ in range(7):
        assert len(connection.execute(everything, (1000,)).fetchone()) == 12
        connection.commit()
    connection.execute(f"alter table {TABLE} add column more int default 7")
    connection.commit()
    try:
        assert len(connection.execute(everything, (1000,)).fetchone()) == 13
    except errors.FeatureNotSupported:
        connection.rollback()
    connection.commit()
    assert connection.execute(f"select name from {TABLE} where id = %s", (1000,)).fetchone() == ("kept",)
    connection.commit()
    with connect() as other:
        for _ in range(7):
            assert len(other.execute(everything, (1000,)).fetchone()) == 13
            other.commit()
    print("alter table")

with connect(autocommit=True) as connection, connect(autocommit=True) as other:
    def cancel() -> None:
        # A cancel that overtakes its query is lost, with or without a pooler.
        while not other.execute("select 1 from pg_stat_activity where wait_event = 'PgSleep'").fetchone():
            pass
        connection.cancel()

    for sql in ("select pg_sleep(20)", "select pg_sleep(%s)"):
        canceller = threading.Thread(target=cancel)
        canceller.start()
        expect("57014", connection, sql, *[20] * sql.count("%s"))
        canceller.join()
        assert connection.execute("select %s::int", (1,)).fetchone() == (1,)
    with connection.transaction():
        connection.execute("set local statement_timeout = '100ms'")
        try:
            with connection.transaction():
                connection.execute("select pg_sleep(20)")
        except errors.QueryCanceled:
            print("timeout")
    print("cancel and timeout")

    if SESSION:
        connection.execute("listen news")
        other.execute("select pg_notify(%s, %s)", ("news", "grüße"))
        for notice in connection.notifies():
            print("session:", notice.channel, notice.payload)
            break

    try:
        connection.execute("select pg_terminate_backend(pg_backend_pid())")
        raise SystemExit("it is still there")
    except psycopg.OperationalError as told:
        assert "terminating connection due to administrator command" in str(told), told
    assert connection.broken
    assert other.execute("select %s::int", (3,)).fetchone() == (3,)
    print("terminated")


def work(number: int) -> None:
    with connect() as mine:
        for n in range(15):
            assert mine.execute(f"update {TABLE} set name = %s where id = %s returning name", (f"by {number}", number)
                                ).fetchone() == (f"by {number}",)
            assert mine.execute(f"select %s::int + {number}", (n,)).fetchone() == (n + number,)
            mine.commit()


problems = []
threading.excepthook = problems.append
threads = [threading.Thread(target=work, args=(n,)) for n in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not problems, problems
print("forty at once")
print("done")
