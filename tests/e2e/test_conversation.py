"""Where the conversation with PostgreSQL stands: batches that fail, copies that fail, requests between them.

PostgreSQL directly is the measure: the same messages to both, the same replies. Beside each sequence other clients
use the same server connection, and must see nothing of it.
"""

import itertools
import os
import random
import socket
import subprocess
import threading

import pytest

from postgres import bin_dir
from wait import wait_until
from wire import (Raw, bind, close_statement, copy_data, copy_done, copy_fail, describe_portal, error, execute, flush,
                  function_call, kinds, message, parse, query, rows, sync, terminate)

# pg_catalog.pi(), and no function at all.
CALL, CALL_FAILS = function_call(1610, []), function_call(1, [])


@pytest.fixture(scope="module", autouse=True)
def schema(pg):
    """What the copies go to; a view and a trigger fail before anything is read."""
    pg.admin("""
        create table if not exists into_table (n int, t text);
        create table if not exists discarded (n int);
        create or replace view into_view as select 1 as n;
        create table if not exists into_trigger (n int);
        create or replace function refuse() returns trigger language plpgsql as
            $$ begin raise exception 'no rows, please'; end $$;
        create or replace trigger refuses before insert on into_trigger for each statement execute function refuse();
        grant all on into_table, discarded, into_view, into_trigger to app;
    """, database="shop")


def direct(pg) -> Raw:
    raw = Raw((pg.host, pg.port))
    raw.login()
    raw.socket.settimeout(10)
    return raw


def replies(raw: Raw, *parts: bytes) -> list:
    """All that these get, told by a mark behind them: kinds, transaction states, SQLSTATEs and rows."""
    raw.send(*parts)
    # Several Syncs end any batch; the last query is told by its value.
    raw.send(sync(), query("select 'the end'"))
    seen = []
    while True:
        reply = raw.read()
        if reply is None:
            return seen + ["end of stream"]
        if reply.kind in "SNA":
            continue
        if reply.kind == "D" and reply.row == [b"the end"]:
            assert raw.read().kind == "C" and raw.read().kind == "Z"
            # Its RowDescription.
            return seen[:-1]
        seen.append((reply.kind, reply.code if reply.kind == "E" else reply.body))


class Neighbours:
    """Clients that ask for numbers, each its own, and get them."""

    def __init__(self, pooler, count: int):
        self.stopping = threading.Event()
        self.problems: list = []
        self.asked = 0
        self.threads = [threading.Thread(target=self.loop, args=(pooler, n)) for n in range(count)]

    def loop(self, pooler, n: int) -> None:
        try:
            raw = pooler.raw()
            for turn in itertools.count():
                if self.stopping.is_set():
                    return raw.close()
                value = str(n * 1_000_000 + turn)
                found = raw.ask(query(f"select {value}"))
                if kinds(found) != "TDCZ" or rows(found) != [[value.encode()]]:
                    self.problems.append((value, found))
                    return
                self.asked += 1
        except Exception as problem:
            self.problems.append(problem)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.problems, self.problems
        assert self.asked > 0


def is_free(pooler) -> None:
    """Another client is served by the one server connection there is."""
    other = pooler.raw()
    other.socket.settimeout(10)
    assert other.value("select 42") == "42"
    other.close()


# Batches that fail

@pytest.mark.parametrize("behind", [
    [query("select 1")],
    [CALL],
    [query("select 1"), CALL, query("select 2")],
    [query("set role app")],
    [query("reset all")],
    [query("discard all")],
    [query("deallocate all")],
    [query("discard temp")],
    [query("do $$ begin end $$")],
    [query("select set_config('app.x', 'y', false)")],
    [query("begin")],
    [bind(), execute(), query("select 1")],
    [copy_data(b"1\n"), copy_done()],
], ids=range(13))
def test_behind_a_failed_parse_all_is_skipped_to_the_sync(doorman, pg, behind):
    pooler = doorman(size=1)
    raw, straight = pooler.raw(), direct(pg)
    # In two parts, and in one.
    for _ in range(2):
        for one in (raw, straight):
            one.send(parse("selec 5"), *behind)
            assert error([one.read()]).code == "42601"
        # The connection is not anybody else's before the client has sent its Sync.
        other = pooler.raw()
        other.send(query("select 42"))
        assert replies(raw, sync()) == replies(straight, sync()) == [("Z", b"I")] * 2
        assert rows(other.read_until("Z")) == [[b"42"]]
        other.close()
        together = [parse("selec 5"), *behind, sync()]
        assert replies(raw, *together) == replies(straight, *together)
        is_free(pooler)
    straight.close()


def test_a_client_that_leaves_before_its_sync_holds_nobody_up(doorman):
    pooler = doorman(size=1)
    for leaves in [Raw.close, Raw.vanish]:
        raw = pooler.raw()
        raw.send(parse("selec 5"), query("select 1"))
        assert error([raw.read()]).code == "42601"
        leaves(raw)
        is_free(pooler)


@pytest.mark.parametrize("seed", range(12))
def test_queries_and_calls_inside_batches(doorman, pg, mode, seed):
    """Any mixture of Query and FunctionCall within batches that succeed and fail."""
    dice = random.Random(seed)
    pooler = doorman(size=1, mode=mode)
    raw, straight = pooler.raw(), direct(pg)
    words = [
        lambda: parse("select 1"), lambda: parse("selec"), lambda: parse("select 1/0"),
        lambda: bind() + execute(), lambda: bind() + describe_portal() + execute(),
        lambda: query("select 2"), lambda: query("select 1/0"), lambda: query(""), lambda: query("select 3; selec"),
        lambda: CALL, lambda: CALL_FAILS,
        lambda: flush(), lambda: sync(), lambda: close_statement(""),
        lambda: copy_data(b"1"), lambda: copy_done(), lambda: copy_fail("no"),
        lambda: query("set local work_mem = '1MB'"), lambda: query("begin"), lambda: query("rollback"),
        lambda: query("set application_name = 'x'"), lambda: parse("discard temp") + bind() + execute(),
    ]

    for _ in range(15):
        said = [dice.choice(words)() for _ in range(dice.randrange(1, 12))]
        ours, theirs = (replies(one, *said, sync(), query("rollback")) for one in (raw, straight))
        assert ours == theirs, said
        is_free(pooler) if mode == "transaction" else None
    raw.close()
    straight.close()


@pytest.mark.parametrize("malformed", [
    message(b"D", b"Yname\0"), message(b"C", b"Y\0"), message(b"D", b""), message(b"C", b"Sname"),
    message(b"B", b"portal"), message(b"B", b"\0\0\0\1"), message(b"P", b"\0select 1"),
    message(b"P", b"name\0select 1\0\0\2\0\0\0\x17"), message(b"E", b"\0"),
], ids=range(9))
def test_a_message_of_a_wrong_form_fails_its_batch_and_not_the_session(doorman, pg, malformed):
    pooler = doorman(size=1)
    raw, straight = pooler.raw(), direct(pg)
    for said in [[malformed], [parse("select 1"), bind(), execute(), malformed, execute(), sync()]]:
        assert replies(raw, *said) == replies(straight, *said)
    is_free(pooler)
    straight.close()


# Copies that fail

def test_nobody_gets_a_reply_to_the_syncs_of_a_copy_that_fails(doorman):
    pooler = doorman(size=1)
    with Neighbours(pooler, 12):
        for _ in range(60):
            raw = pooler.raw()
            raw.send(query("copy into_table from stdin"), copy_data(b"bad\n"), copy_data(b"x" * 7999 + b"\n") * 300,
                     sync())
            assert kinds(raw.read_until("Z")) == "GEZ"
            assert kinds(raw.read_until("Z")) == "Z"
            assert raw.value("select 7") == "7"
            raw.close()


@pytest.mark.parametrize("relation, code", [("into_view", "42809"), ("into_trigger", "P0001")])
@pytest.mark.parametrize("described", [False, True])
def test_a_copy_that_fails_at_once_as_libpq_sends_it(doorman, pg, mode, relation, code, described):
    pooler = doorman(size=1, mode=mode)
    raw = pooler.raw()
    backend = raw.value("select pg_backend_pid()")
    for _ in range(20):
        batch = [parse(f"copy {relation} from stdin"), bind(), describe_portal() if described else b"", execute()]
        found = raw.ask(*batch, sync())
        assert kinds(found) == ("12nGEZ" if described else "12GEZ")
        assert error(found).code == code
        assert raw.status == "I"
    assert raw.value("select pg_backend_pid()") == backend
    assert kinds(raw.ask(query(f"copy {relation} from stdin"))) == "GEZ"
    raw.send(query(f"copy {relation} from stdin"), sync(), sync())
    assert [kinds(raw.read_until("Z")) for _ in range(3)] == ["GEZ", "Z", "Z"]
    raw.close()
    is_free(pooler)


@pytest.mark.parametrize("seed", range(16))
def test_copies_that_fail_anywhere(doorman, pg, mode, seed):
    """The row that fails comes first, so that all Syncs behind it are answered, whoever is faster."""
    dice = random.Random(seed)
    pooler = doorman(size=1, mode=mode)
    raw, straight = pooler.raw(), direct(pg)
    for _ in range(10):
        simple = dice.random() < 0.5
        begins = query("copy into_table from stdin") if simple else (
            parse("copy into_table from stdin") + bind() + execute())
        said = [begins, copy_data(b"bad\n" if dice.random() < 0.8 else b"1\tone\n")]
        for _ in range(dice.choice([0, 0, 1, 3])):
            said.append(copy_data(b"2\t" + b"x" * dice.choice([3, 9000]) + b"\n"))
        if b"bad" in said[1] and simple:
            said += [sync()] * dice.randrange(3)
        said += [dice.choice([copy_done(), copy_fail("no more"), copy_data(b"3\n") + copy_done()])]
        said += [dice.choice([b"", copy_done(), copy_data(b"x")]), sync()]
        said += [dice.choice([b"", query("select 1"), parse("select 2") + bind() + execute() + sync(), sync()])]
        ours, theirs = (replies(one, *said) for one in (raw, straight))
        assert ours == theirs, said
    if mode == "session":
        raw.close()
    is_free(pooler)
    straight.close()


@pytest.mark.parametrize("ends", ["vanish", "close", "half a message"])
@pytest.mark.parametrize("extended", [False, True])
def test_a_client_that_leaves_its_copy(doorman, pg, ends, extended):
    pooler = doorman(size=1)
    pg.admin("truncate into_table", database="shop")
    with Neighbours(pooler, 4):
        for turn in range(12):
            raw = pooler.raw()
            begins = parse("copy into_table from stdin") + bind() + execute() + sync() * (turn % 3)
            raw.send(begins if extended else query("copy into_table from stdin"))
            if turn % 2:
                assert "G" in kinds(raw.read_until("GE"))
            raw.send(copy_data(b"1\tone\n") * 100, sync() * (turn % 4))
            if ends == "half a message":
                raw.send(copy_data(b"bad\n")[:7])
            raw.close() if ends == "close" else raw.vanish()
    def locks() -> list:
        return pg.admin("select 1 from pg_locks where relation = 'into_table'::regclass", database="shop")

    wait_until(lambda: not locks(), what="no copy is under way")
    assert pg.admin("select * from into_table", database="shop") == []


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_over_an_upgrade(doorman, pg, mode, extended, fails):
    """With Syncs on their way that may or may not be answered."""
    pooler = doorman(size=1, mode=mode)
    raw, straight = pooler.raw(), direct(pg)
    begins = query("copy into_table from stdin")
    if extended:
        begins = parse("copy into_table from stdin") + bind() + execute() + sync()
    seen = []
    for one in (raw, straight):
        one.send(begins, sync())
        seen.append(kinds(one.read_until("G")))
    assert seen[0] == seen[1]
    half = copy_data(b"bad\n" if fails else b"1\tone\n")
    for one in (raw, straight):
        one.send(half[:6])
    pooler.upgrade()
    for one in (raw, straight):
        one.send(half[6:], copy_data(b"2\ttwo\n"))
    if fails:
        for one in (raw, straight):
            assert error(one.read_until("E")).code == "22P02"
    pooler.upgrade()
    assert replies(raw, copy_done(), sync()) == replies(straight, copy_done(), sync())
    pooler.upgrade()
    assert raw.value("select 7") == "7"
    raw.close()
    is_free(pooler)
    straight.close()


def test_a_copy_that_is_ended_before_the_client_leaves(doorman, pg):
    """Without the Sync that would have its reply sent."""
    pooler = doorman(size=1, mode="session")
    for ends in (terminate(), b""):
        raw = pooler.raw()
        raw.send(parse("copy into_table from stdin"), bind(), execute(), sync(), copy_data(b"1\tone\n"), copy_done(), ends)
        if not ends:
            raw.socket.shutdown(socket.SHUT_WR)
        raw.socket.settimeout(10)
        assert raw.at_end()
        is_free(pooler)


# Copies behind what holds requests up

def copied(raw: Raw, *begins: bytes, data: bytes = b"1\n", behind: bytes = b"") -> str:
    raw.send(*begins)
    raw.socket.settimeout(10)
    seen = kinds(raw.read_until("G"))
    raw.send(copy_data(data), copy_done(), behind)
    return seen + kinds(raw.read_until("Z"))


@pytest.mark.parametrize("before", [
    "set local search_path = public", "set timezone = 'Asia/Tokyo'", "select set_config('search_path', 'public', true)",
    "set local role app", "discard plans", "deallocate all",
])
def test_a_copy_behind_what_changes_how_texts_are_read(doorman, mode, before):
    raw = doorman(size=1, mode=mode).raw()
    raw.ask(query("begin"))
    raw.ask(query(before))
    assert copied(raw, query("copy discarded from stdin")) == "GCZ"
    batch = [parse("copy discarded from stdin"), bind(), execute()]
    assert copied(raw, *batch, flush(), behind=sync()) == "12GCZ"
    assert copied(raw, *batch, sync(), behind=sync()) == "12GCZ"
    # Without waiting for anything.
    raw.send(query("copy discarded from stdin"), copy_data(b"1\n"), copy_done(), *batch, copy_data(b"1\n"),
             copy_done(), sync(), query("select 1"))
    assert [kinds(raw.read_until("Z")) for _ in range(3)] == ["GCZ", "12GCZ", "TDCZ"]
    raw.ask(query("rollback"))


@pytest.mark.parametrize("sql", [
    "set local search_path=public; copy discarded from stdin",
    "discard plans; copy discarded from stdin",
    "copy discarded from stdin; deallocate all",
    "/* default */ copy discarded(n) from stdin",
])
def test_a_copy_in_one_query_with_it(doorman, mode, sql):
    raw = doorman(size=1, mode=mode).raw()
    for _ in range(2):
        raw.send(query(sql))
        raw.socket.settimeout(10)
        seen = kinds(raw.read_until("G"))
        raw.send(copy_data(b"1\n"), copy_done())
        assert seen[-1] == "G" and kinds(raw.read_until("Z"))[-2:] == "CZ"


def test_a_text_that_comes_in_parts_copies_too(doorman, mode):
    raw = doorman(size=1, mode=mode, general={"prepared_statements": False}).raw()
    sql = "/* deallocate " + "x" * 200_000 + " discard */ copy discarded from stdin"
    assert copied(raw, query(sql)) == "GCZ"


def run(pooler, program: str, *arguments: str, database: str = "shop", said: bytes | None = None) -> bytes:
    """One of PostgreSQL's own programs, through the pooler or directly."""
    command = [os.path.join(bin_dir(), program), "-h", pooler.host, "-p", str(pooler.port), "-U", "app",
               "-d", database, *arguments]
    done = subprocess.run(command, input=said, capture_output=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr.decode())
    return done.stdout


def plain_dump(pg) -> list[bytes]:
    """What the schema is, taken directly; without the key that is another each time."""
    return [line for line in run(pg, "pg_dump", "-n", "dumped").splitlines() if b"restrict " not in line]


@pytest.fixture
def schema_dumped(pg):
    """A schema of app's own with what COPY carries: text with every separator, bytes, nulls, a key."""
    pg.admin("drop schema if exists dumped cascade; create schema dumped authorization app", database="shop")
    with pg.connect() as app:
        app.execute("""
            create table dumped.one (n int primary key, t text, b bytea);
            insert into dumped.one select n, case when n % 7 > 0 then E'a\\tb\\\\c\\n' || n end, decode(md5(n::text), 'hex')
                from generate_series(1, 3000) n;
            create table dumped.two (n int references dumped.one, discard text);
            insert into dumped.two select n, 'deallocate all' from generate_series(1, 500) n;
            create view dumped.three as select t from dumped.one;
            create sequence dumped.four; select nextval('dumped.four');
        """)


@pytest.mark.parametrize("options", [[], ["--inserts"], ["--clean", "--if-exists"]], ids=str)
def test_pg_dump_into_psql(doorman, pg, mode, schema_dumped, options):
    pooler = doorman(size=1, mode=mode)
    plain = plain_dump(pg)
    dump = run(pooler, "pg_dump", "-n", "dumped", *options)
    pg.admin("drop schema dumped cascade", database="shop")
    pg.admin("grant create on database shop to app", database="shop")
    run(pooler, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", said=dump)
    assert plain_dump(pg) == plain


def test_the_data_alone_into_psql(doorman, pg, mode, schema_dumped):
    pooler = doorman(size=1, mode=mode)
    plain = plain_dump(pg)
    dump = run(pooler, "pg_dump", "-n", "dumped", "--data-only")
    pg.admin("truncate dumped.one, dumped.two", database="shop")
    run(pooler, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", said=dump)
    assert plain_dump(pg) == plain


@pytest.mark.parametrize("form", ["custom", "tar", "directory"])
def test_pg_restore(doorman, pg, mode, schema_dumped, tmp_path, form):
    pooler = doorman(size=3, mode=mode)
    plain = plain_dump(pg)
    run(pooler, "pg_dump", "-n", "dumped", "-F", form, "-f", str(tmp_path / "dump"))
    pg.admin("drop schema dumped cascade; grant create on database shop to app", database="shop")
    run(pooler, "pg_restore", "-1", "-e", str(tmp_path / "dump"))
    assert plain_dump(pg) == plain
    pg.admin("truncate dumped.one, dumped.two", database="shop")
    run(pooler, "pg_restore", "-e", "--data-only", str(tmp_path / "dump"))
    assert plain_dump(pg) == plain


@pytest.mark.parametrize("stray", [close_statement("s"), parse("select 1", "s"), message(b"\1")],
                         ids=["close", "known-parse", "unknown"])
def test_what_breaks_a_copy_ends_it(doorman, pg, mode, stray):
    """Also what the pooler answers by itself, or passes to no server."""
    one = doorman(mode=mode, size=1)
    for session in (direct(pg), one.raw()):
        session.ask(parse("select 1", "s"), sync())
        session.send(query("copy into_table from stdin"))
        assert session.read_until("G")[-1].kind == "G"
        session.send(stray)
        seen = session.read_until("")
        assert {reply.code for reply in seen} == {"08P01"}
        assert seen[-1].fields["V"] == "FATAL"
    assert one.serves()


def test_a_client_cannot_pile_up_what_the_pooler_answers_behind_a_copy(doorman, pg):
    one = doorman(size=1)
    client = one.raw()
    client.ask(parse("select 1", "s"), sync())
    client.send(query("copy into_table from stdin"))
    assert client.read_until("G")[-1].kind == "G"
    before = one.resident_kib()
    pair = close_statement("s") + parse("select 1", "s")
    try:
        for _ in range(200):
            client.send(pair * 4096)
    except ConnectionError:
        pass
    assert one.serves()
    assert one.peak_kib() - before < 64 * 1024


@pytest.mark.parametrize("resets", [[query("reset timezone")],
                                    [parse("reset timezone"), bind(), execute(), sync()]], ids=["query", "batch"])
def test_a_stray_copy_done_does_not_keep_settings_from_going_back(doorman, mode, resets):
    one = doorman(mode=mode, size=1)
    client = one.raw(TimeZone="Asia/Tokyo")
    for _ in range(2):
        client.ask(*resets, copy_done(), copy_done(), copy_data(b"1"), query("select 1"))
        client.read_until("Z")
        assert client.value("show timezone") == "Asia/Tokyo"


# Not Flush and Query in one write: by the replies that come it cannot be told which of them has failed.
BEHIND_A_TIMEOUT = [[query("select 5")], [CALL], [execute()], [execute(), flush(), query("select 5")],
                    [parse("select 6"), bind(), execute()], [flush(), flush()], [sync(), query("select 5")], []]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_statements_time_is_up_in_an_open_batch(doorman, pg, mode):
    """PostgreSQL notices with the next message. Its error is of that one, or of none."""
    count = len(BEHIND_A_TIMEOUT)
    pooler = doorman(mode=mode, size=count)
    pairs = [(direct(pg), pooler.raw(options="-c statement_timeout=1500")) for _ in range(count)]
    for straight, raw in pairs:
        straight.ask(query("set statement_timeout = 1500"))
        for one in (straight, raw):
            one.send(parse("select 1"), bind(), flush())
    for pair in pairs:
        for one in pair:
            assert kinds([one.read(), one.read()]) == "12"
    pg.admin("select pg_sleep(1.6)")
    for behind, (straight, raw) in zip(BEHIND_A_TIMEOUT, pairs):
        for one in (straight, raw):
            one.send(*behind)
    for behind, (straight, raw) in zip(BEHIND_A_TIMEOUT, pairs):
        assert replies(raw) == replies(straight), behind
