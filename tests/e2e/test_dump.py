"""pg_dump, pg_restore and psql through the pooler.

A database that its user owns, without row security, is dumped and restored
through the pooler in every format. The copy is right if a plain dump of it,
taken directly, is byte for byte that of the original. Every program has a
time limit, so that one that hangs fails at once.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from postgres import bin_dir

# A second, kept small, is enough for each program here; this is for busy machines.
LONGEST = 20

OBJECTS = r"""
create schema store;
create type store.mood as enum ('sad', 'ok', 'happy');
create domain store.positive as int check (value > 0);
create type store.pair as (x int, y text);
create sequence store.counter start 7 increment 3;
select nextval('store.counter'), nextval('store.counter');
create table store.item (
    id int generated always as identity primary key,
    name text not null,
    mood store.mood default 'ok',
    tags text[],
    raw bytea,
    price numeric(10, 2),
    amount store.positive,
    double_price numeric generated always as (price * 2) stored,
    made timestamptz default '2024-02-03 04:05:06+00',
    length interval,
    pair store.pair
);
insert into store.item (name, mood, tags, raw, price, amount, length, pair)
select 'item ' || n, (array['sad', 'ok', 'happy'])[1 + n % 3]::store.mood, array['a', 'b "q" ' || n, null],
       decode(lpad(to_hex(n), 8, '0'), 'hex'), n * 1.25, n, make_interval(days => n), row(n, E'tab\there\\' || n)::store.pair
from generate_series(1, 500) n;
insert into store.item (name) values (E'line\nbreak'), ('\N'), ('\.'), ('ünï'), ('');
create table public.discarded (a int, "deallocate" text);
insert into public.discarded select n, 'row ' || n from generate_series(1, 20) n;
create table public."Temp Table" (a int unique, b float8);
insert into public."Temp Table" values (1, 0.1), (2, 'NaN'), (3, '-Infinity'), (4, 1e300);
create table public.part (day date, v text) partition by range (day);
create table public.part_old partition of public.part for values from ('2020-01-01') to ('2023-01-01');
create table public.part_new partition of public.part for values from ('2023-01-01') to ('2026-01-01');
insert into public.part select date '2022-06-01' + n * 10, 'v' || n from generate_series(0, 100) n;
create table public.child () inherits (public.discarded);
insert into public.child values (100, 'inherited');
create table public.refers (item int references store.item (id), note text default 'set role; discard all');
insert into public.refers select n from generate_series(1, 50) n;
create table public.wide as select n as id, repeat(chr(65 + n % 26), 20000) as text from generate_series(1, 30) n;
create index on store.item using gin (tags);
create index upper_name on store.item (upper(name)) where price > 10;
create view store.cheap as select id, name from store.item where price < 100;
create view store.updatable as select a from public.discarded where a > 0 with local check option;
create materialized view store.total as select mood, count(*) as n from store.item group by mood;
create function store.touch() returns trigger language plpgsql as $$
begin
    new.name := new.name || '';
    return new;
end $$;
create trigger touch before update on store.item for each row execute function store.touch();
create function store.add(a int, b int default 2) returns int language sql immutable as 'select a + b';
create procedure store.nothing(inout x int) language plpgsql as $$ begin x := x + 1; end $$;
create aggregate store.sum_of(int) (sfunc = int4pl, stype = int, initcond = '0');
create operator store.#+# (leftarg = int, rightarg = int, function = int4pl);
create rule nothing as on delete to public."Temp Table" do instead nothing;
create collation store.c (locale = 'C');
create statistics store.item_stats on name, mood from store.item;
comment on table store.item is 'An item; set search_path = nowhere';
comment on column store.item.raw is 'bytes';
comment on function store.add(int, int) is 'adds';
grant select on store.item to team;
alter default privileges in schema store grant select on tables to team;
select lo_from_bytea(4711, decode(repeat('00ff27', 5000), 'hex'));
select lo_from_bytea(4712, '');
comment on large object 4711 is 'large';
"""

PLAIN = ["", "--inserts", "--column-inserts --rows-per-insert=7", "--clean --if-exists", "--quote-all-identifiers",
         "--no-comments --no-owner", "--serializable-deferrable", "--disable-dollar-quoting"]
ARCHIVES = {"custom": ["-Fc"], "directory": ["-Fd", "-j2"], "tar": ["-Ft"]}


class Bench:
    """The original, a place for copies, and the programs on the way through the pooler or past it."""

    def __init__(self, pg, one):
        self.pg, self.one = pg, one

    def run(self, program: str, *words: str, direct: bool = False, feed: bytes | None = None) -> bytes:
        port = self.pg.port if direct else self.one.port
        environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "app", "LC_ALL": "C",
                       "PGCONNECT_TIMEOUT": "10", "PGTZ": "UTC"}
        done = subprocess.run([os.path.join(bin_dir(), program), *words], env=environment, input=feed,
                              stdin=None if feed is not None else subprocess.DEVNULL, capture_output=True,
                              timeout=LONGEST)
        assert done.returncode == 0, f"{program} {words}: {done.stderr.decode(errors='replace')[-2000:]}"
        assert b"ERROR" not in done.stderr and b"FATAL" not in done.stderr, done.stderr.decode(errors="replace")
        return done.stdout

    def empty(self) -> None:
        """An empty database `copy`."""
        self.pg.admin("drop database if exists copy with (force)")
        self.pg.admin("create database copy owner app")
        self.pg.admin("alter schema public owner to app", database="copy")

    def plain(self, database: str) -> bytes:
        return told(self.run("pg_dump", "-d", database, direct=True))


def told(script: bytes) -> bytes:
    r"""A dump without the random keys of its \restrict and \unrestrict."""
    return re.sub(rb"(?m)^\\(un)?restrict .*\n", b"", script)


@pytest.fixture(scope="module")
def original(pg):
    pg.admin("drop database if exists original with (force)")
    pg.admin("create database original owner app")
    pg.admin("alter schema public owner to app", database="original")
    with pg.connect(database="original") as connection:
        connection.execute(OBJECTS)
    yield "original"
    for name in ["original", "copy"]:
        pg._connections.pop(name, None)
        pg.admin(f"drop database if exists {name} with (force)")


@pytest.fixture
def bench(pg, original, doorman, mode):
    users = [{"username": "app", "password": pg.verifier("app"), "pool_size": 4}]
    table = {"server_host": pg.host, "server_port": pg.port, "pool_mode": mode, "users": users}
    bench = Bench(pg, doorman(mode=mode, pools={"original": dict(table), "copy": dict(table)}))
    bench.empty()
    yield bench
    if "copy" in pg._connections:
        pg._connections.pop("copy").close()


def checked(bench: Bench) -> None:
    wanted, got = bench.plain("original"), bench.plain("copy")
    if wanted != got:
        pairs = zip(wanted.splitlines(), got.splitlines())
        assert next((pair for pair in pairs if pair[0] != pair[1]), None) is None
        assert len(wanted) == len(got)


@pytest.mark.limit(200)
@pytest.mark.parametrize("options", PLAIN)
def test_plain_dumps_are_those_taken_directly(bench, options, mode):
    """And psql, in one transaction, makes the same of them."""
    words = ["-d", "original", *options.split()]
    script = bench.run("pg_dump", *words)
    if mode == "session" or "--quote-all" not in options:
        # That option is a SET in front of the transaction, whose end it does not reach in transaction mode.
        assert told(script) == told(bench.run("pg_dump", *words, direct=True))
    bench.run("psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", "copy", feed=script)
    if "--no-comments" not in options:
        checked(bench)


@pytest.mark.limit(200)
def test_psql_without_a_transaction(bench):
    script = bench.run("pg_dump", "-d", "original")
    bench.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "copy", feed=script)
    checked(bench)


@pytest.mark.limit(200)
@pytest.mark.parametrize("single", [True, False])
def test_data_only(bench, single):
    """The definitions first, then the data, in one transaction or in many."""
    first = bench.run("pg_dump", "-d", "original", "--section=pre-data")
    data = bench.run("pg_dump", "-d", "original", "--section=data")
    last = bench.run("pg_dump", "-d", "original", "--section=post-data")
    assert told(data) == told(bench.run("pg_dump", "-d", "original", "--section=data", direct=True))
    once = ["-1"] if single else []
    for script in [first, data, last]:
        bench.run("psql", "-X", "-q", *once, "-v", "ON_ERROR_STOP=1", "-d", "copy", feed=script)
    checked(bench)


@pytest.mark.limit(200)
def test_a_schema_and_then_its_data_only(bench):
    """As --data-only is used: into tables that are there, whose contents it does not know."""
    bench.run("psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", "copy",
              feed=b"create table public.discarded (a int, \"deallocate\" text);")
    data = bench.run("pg_dump", "-d", "original", "--data-only", "-t", "public.discarded")
    bench.run("psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", "copy", feed=data)
    with bench.pg.connect(database="copy") as connection:
        assert connection.execute("select count(*) from discarded").fetchone() == (20,)


@pytest.mark.limit(200)
@pytest.mark.parametrize("format", ARCHIVES)
@pytest.mark.parametrize("how", [["-1"], [], ["-j2"], ["--disable-triggers", "--use-set-session-authorization"]])
def test_archives(bench, tmp_path, format, how):
    if format == "tar" and "-j2" in how:
        pytest.skip("pg_restore cannot read a tar in parallel")
    if "--disable-triggers" in how:
        how = ["--exit-on-error"]
    file = str(tmp_path / "archive")
    bench.run("pg_dump", *ARCHIVES[format], "-f", file, "-d", "original")
    bench.run("pg_restore", *how, "-d", "copy", file)
    checked(bench)


@pytest.mark.limit(200)
def test_clean_restores_over_what_is_there(bench, tmp_path):
    file = str(tmp_path / "archive")
    bench.run("pg_dump", "-Fc", "-f", file, "-d", "original")
    bench.run("pg_restore", "-1", "-d", "copy", file)
    bench.pg.admin("select lo_unlink(oid) from pg_largeobject_metadata", database="copy")
    bench.run("pg_restore", "--clean", "--if-exists", "-d", "copy", file)
    checked(bench)
