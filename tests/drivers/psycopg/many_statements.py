"""psycopg 3 with more statements than it keeps prepared: it drops the oldest by DEALLOCATE."""

import psycopg

with psycopg.connect(prepare_threshold=0) as connection:
    for _ in range(2):
        for n in range(150):
            assert connection.execute(f"select %s::int + {n}", (n,)).fetchone() == (2 * n,)
            connection.commit()
print("done")
