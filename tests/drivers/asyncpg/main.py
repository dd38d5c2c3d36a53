"""asyncpg as it comes, its cache of named statements on: rows, parameters of many types, transactions, cursors, COPY,
notices, errors, timeouts (which cancel), reconnect, notifications (session mode), a client-side pool, forty at once.
"""

import asyncio
import datetime
import decimal
import hashlib
import io
import json
import os
import uuid

import asyncpg

TABLE = os.environ["PGTABLE"]
SESSION = os.environ["POOL_MODE"] != "transaction"


async def expect(state: str, told) -> None:
    try:
        await told
    except asyncpg.PostgresError as error:
        assert error.sqlstate == state, repr(error)
        print(state, error)
    else:
        raise SystemExit(f"no error {state}")


async def main() -> None:
    connection = await asyncpg.connect()
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    await connection.execute(
        f"create table {TABLE} (id int primary key, name text, amount numeric, raw bytea, at timestamptz, tags text[], "
        "data jsonb, key uuid, yes bool, big int8, ratio float8, took interval)")
    await connection.executemany(
        f"insert into {TABLE} values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        [(n, f"näme {n} 🐘" if n % 7 else None, decimal.Decimal(f"{n}.50"), bytes([n, 0, 255]),
          datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), ["a", str(n)], {"n": n}, uuid.UUID(int=n),
          n % 2 == 0, 2**40 + n, n / 8, datetime.timedelta(minutes=n)) for n in range(200)])
    for row in await connection.fetch(f"select * from {TABLE} where id = any($1) order by id", [0, 1, 77]):
        print(*row.values())
    for n in range(1, 7):
        assert await connection.fetchval(f"select name from {TABLE} where id = $1", n) == f"näme {n} 🐘"
    print("rows")

    async def fail_at_last():
        async with connection.transaction():
            await connection.execute(f"delete from {TABLE}")
            await connection.fetch("select 1/0")
    await expect("22012", fail_at_last())
    assert await connection.fetchval(f"select count(*) from {TABLE}") == 200
    async with connection.transaction():
        try:
            async with connection.transaction():
                await connection.execute(f"insert into {TABLE} values ($1)", 1)
        except asyncpg.UniqueViolationError:
            pass
        await connection.execute(f"insert into {TABLE} values (1000, 'kept')")
    await connection.execute("begin")
    await expect("22P02", connection.execute("select 'x'::int"))
    await expect("25P02", connection.fetch("select 1"))
    await connection.execute("rollback")
    await expect("42P01", connection.fetch("select * from nowhere where x = $1", 1))
    await expect("23505", connection.executemany(f"insert into {TABLE} (id) values ($1)", [(1500,), (1501,), (1,), (1502,)]))
    assert await connection.fetchval(f"select count(*) from {TABLE} where id >= 1500") == 0
    async with connection.transaction(isolation="serializable", readonly=True):
        print(await connection.fetchval("show transaction_isolation"), await connection.fetchval("show transaction_read_only"))
    print("transactions and savepoints")

    statement = await connection.prepare("select $1::int + 1")
    assert [await statement.fetchval(n) for n in range(10)] == list(range(1, 11))
    print(statement.get_parameters()[0].name, statement.get_attributes()[0].type.name)
    # More than its cache of 100 holds: the oldest are closed, and prepared anew when they come back.
    for _ in range(2):
        for n in range(150):
            assert await connection.fetchval(f"select $1::int + {n}", n) == 2 * n
    async with connection.transaction():
        cursor = connection.cursor(f"select id from {TABLE} order by id", prefetch=50)
        assert len([row async for row in cursor]) == 201
        cursor = await connection.cursor(f"select id from {TABLE} order by id")
        await cursor.forward(10)
        assert [row[0] for row in await cursor.fetch(3)] == [10, 11, 12]
    rows = await connection.fetch("select n, md5(n::text) as m from generate_series(1, $1::int) n", 20000)
    print(len(rows), hashlib.md5("".join(f"{n},{m}" for n, m in rows).encode()).hexdigest())
    large = "x" * 3_000_000
    assert await connection.fetchval("select $1::text", large) == large
    print("prepared statements and cursors")

    await connection.copy_records_to_table(
        TABLE, columns=["id", "name"], records=[(n, "copied ü") for n in range(2000, 5000)])
    output = io.BytesIO()
    await connection.copy_from_query(f"select id, name from {TABLE} where id >= $1", 2000, output=output)
    assert output.getvalue().count("copied ü\n".encode()) == 3000
    await expect("22P02", connection.copy_to_table(TABLE, columns=["id"], source=io.BytesIO(b"no number\n")))
    print("copy")

    notices = []
    connection.add_log_listener(lambda _, message: notices.append(f"{message.severity} {message}"))
    await connection.execute("do $$ begin raise notice 'hear %', 'this'; raise warning 'and ü'; end $$")
    await connection.fetchval("select 1")
    print(notices)

    look, everything = f"select name from {TABLE} where id = $1", f"select * from {TABLE} where id = $1"
    assert len(await connection.fetchrow(everything, 1000)) == 12
    await connection.execute(f"alter table {TABLE} add column more int default 7")
    assert await connection.fetchval(look, 1000) == "kept"
    # asyncpg prepares it anew by itself.
    assert len(await connection.fetchrow(everything, 1000)) == 13
    # The same where the statement and the change have seen different server connections.
    other = await asyncpg.connect()
    await other.execute(f"alter table {TABLE} add column yet_more text default 'x'")
    async with other.transaction():
        await other.fetchval("select 1")
        assert len(await connection.fetchrow(everything, 1000)) == 14
    assert len(await connection.fetchrow(everything, 1000)) == 14
    await other.close()
    print("alter table")

    try:
        await connection.fetchval("select pg_sleep(20)", timeout=0.3)
        raise SystemExit("the query was not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("select 1") == 1
    other = await asyncpg.connect()
    sleeping = asyncio.create_task(connection.fetchval("select pg_sleep($1)", 20))
    # A cancel that overtakes its query is lost, with or without a pooler.
    while not await other.fetchval("select 1 from pg_stat_activity where wait_event = 'PgSleep'"):
        pass
    sleeping.cancel()
    try:
        await sleeping
        raise SystemExit("the query was not cancelled")
    except asyncio.CancelledError:
        pass
    assert await connection.fetchval("select $1::int", 2) == 2
    async with connection.transaction():
        await connection.execute("set local statement_timeout = '100ms'")
        await connection.execute("savepoint here")
        await expect("57014", connection.fetch("select pg_sleep($1)", 20))
        await connection.execute("rollback to here")
    print("cancel and timeout")

    try:
        await connection.fetch("select pg_terminate_backend(pg_backend_pid())")
        raise SystemExit("it is still there")
    except (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError) as told:
        print(type(told).__name__)
    assert connection.is_closed()
    connection = await asyncpg.connect()
    assert await connection.fetchval("select $1::int", 3) == 3
    print("reconnected")

    if SESSION:
        heard = asyncio.get_running_loop().create_future()
        await connection.add_listener("news", lambda _connection, _pid, channel, payload: heard.set_result((channel, payload)))
        await other.execute("select pg_notify($1, $2)", "news", "grüße")
        print("session:", *await asyncio.wait_for(heard, 10))
    await other.close()
    await connection.close()

    async def work(pool: asyncpg.Pool, number: int) -> None:
        for n in range(15):
            async with pool.acquire() as mine, mine.transaction():
                by = await mine.fetchval(f"update {TABLE} set name = $1 where id = $2 returning name", f"by {number}", number)
                assert by == f"by {number}", by
                assert await mine.fetchval(f"select $1::int + {number}", n) == n + number

    size = 4 if SESSION else 40
    async with asyncpg.create_pool(min_size=size, max_size=size) as pool:
        await asyncio.gather(*[work(pool, n) for n in range(40)])
    print("forty at once")


asyncio.run(main())
print("done")
