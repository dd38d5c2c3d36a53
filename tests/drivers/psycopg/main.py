"""psycopg 3: rows, transactions, prepared statements, pipeline, COPY, errors, cancel, many at once."""

import os
import threading

import psycopg
from psycopg.types.json import Jsonb

TABLE = os.environ["PGTABLE"]


def connect(**options) -> psycopg.Connection:
    """A connection that prepares every statement under a name, at its first use."""
    return psycopg.connect(prepare_threshold=0, **options)


with connect() as connection:
    connection.execute(f"create table {TABLE} (id int primary key, name text, data jsonb, at timestamptz default now())")
    connection.commit()
    with connection.cursor() as cursor:
        cursor.executemany(f"insert into {TABLE} values (%s, %s, %s)",
                           [(n, f"näme {n}", Jsonb({"n": n})) for n in range(200)])
    connection.commit()
    for n in range(20):
        assert connection.execute(f"select name, data from {TABLE} where id = %s", (n,)).fetchone() \
            == (f"näme {n}", {"n": n})
    connection.commit()
    print("rows")

    try:
        with connection.transaction():
            connection.execute(f"delete from {TABLE}")
            connection.execute("select 1/0")
    except psycopg.errors.DivisionByZero:
        pass
    assert connection.execute(f"select count(*) from {TABLE}").fetchone() == (200,)
    with connection.transaction():
        try:
            with connection.transaction():
                connection.execute(f"insert into {TABLE} values (1)")
        except psycopg.errors.UniqueViolation:
            pass
        connection.execute(f"insert into {TABLE} values (1000, 'kept')")
    connection.commit()
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
        except psycopg.errors.DivisionByZero:
            connection.rollback()
        assert connection.execute("select %s::int", (5,)).fetchone() == (5,)
    connection.commit()
    print("pipeline")

    with connection.cursor() as cursor:
        with cursor.copy(f"copy {TABLE} (id, name) from stdin") as copy:
            for n in range(2000, 5000):
                copy.write_row((n, "copied\tand\nescaped"))
        with cursor.copy(f"copy (select id, name from {TABLE} where id >= 2000) to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 3000
    connection.commit()
    print("copy")

    with connection.cursor("stepwise") as cursor:
        cursor.itersize = 100
        assert sum(1 for _ in cursor.execute(f"select * from {TABLE}")) == 3201
    connection.commit()
    print("server-side cursor")

with connect(autocommit=True) as connection:
    timer = threading.Timer(0.2, connection.cancel)
    timer.start()
    try:
        connection.execute("select pg_sleep(20)")
        raise SystemExit("the query was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    timer.join()
    assert connection.execute("select 1").fetchone() == (1,)
    print("cancel")


def work(number: int) -> None:
    with connect() as mine:
        for n in range(30):
            mine.execute(f"update {TABLE} set name = %s where id = %s", (f"by {number}", number))
            assert mine.execute(f"select name from {TABLE} where id = %s", (number,)).fetchone() == (f"by {number}",)
            mine.commit()


threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("twelve at once")
print("done")
