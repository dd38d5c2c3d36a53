"""asyncpg as it comes, its cache of named statements on: rows, transactions, cursors, COPY, errors,
timeouts (which cancel), a client-side pool.
"""

import asyncio
import io
import os

import asyncpg

TABLE = os.environ["PGTABLE"]
SESSION = os.environ["POOL_MODE"] != "transaction"


async def main() -> None:
    connection = await asyncpg.connect()
    await connection.execute(f"create table {TABLE} (id int primary key, name text)")
    await connection.executemany(f"insert into {TABLE} values ($1, $2)", [(n, f"näme {n}") for n in range(200)])
    for n in range(20):
        assert await connection.fetchval(f"select name from {TABLE} where id = $1", n) == f"näme {n}"
    print("rows")

    try:
        async with connection.transaction():
            await connection.execute(f"delete from {TABLE}")
            await connection.fetch("select 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    assert await connection.fetchval(f"select count(*) from {TABLE}") == 200
    async with connection.transaction():
        try:
            async with connection.transaction():
                await connection.execute(f"insert into {TABLE} values (1)")
        except asyncpg.UniqueViolationError:
            pass
        await connection.execute(f"insert into {TABLE} values (1000, 'kept')")
    print("transactions and savepoints")

    statement = await connection.prepare("select $1::int + 1")
    assert [await statement.fetchval(n) for n in range(10)] == list(range(1, 11))
    # More than its cache of 100 holds: the oldest are closed, and prepared anew when they come back.
    for _ in range(2):
        for n in range(150):
            assert await connection.fetchval(f"select $1::int + {n}", n) == 2 * n
    async with connection.transaction():
        cursor = connection.cursor(f"select id from {TABLE} order by id", prefetch=50)
        assert len([row async for row in cursor]) == 201
    print("prepared statements and cursors")

    await connection.copy_records_to_table(TABLE, records=[(n, "copied") for n in range(2000, 5000)])
    output = io.BytesIO()
    await connection.copy_from_query(f"select id from {TABLE} where id >= 2000", output=output)
    assert output.getvalue().count(b"\n") == 3000
    print("copy")

    try:
        await connection.fetchval("select pg_sleep(20)", timeout=0.3)
        raise SystemExit("the query was not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("select 1") == 1
    print("cancel")
    await connection.close()

    async def work(pool: asyncpg.Pool, number: int) -> None:
        for _ in range(20):
            async with pool.acquire() as mine, mine.transaction():
                await mine.execute(f"update {TABLE} set name = $1 where id = $2", f"by {number}", number)
                assert await mine.fetchval(f"select name from {TABLE} where id = $1", number) == f"by {number}"

    size = 4 if SESSION else 12
    async with asyncpg.create_pool(min_size=size, max_size=size) as pool:
        await asyncio.gather(*[work(pool, n) for n in range(12)])
    print("twelve at once")


asyncio.run(main())
print("done")
