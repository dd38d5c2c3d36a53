"""What went wrong once. Each test says what, and that it does not any more."""

import socket
import time

import pytest

from doorman import ADMIN_PASSWORD
from wait import stays, wait_until
from wire import (Raw, bind, close_statement, copy_data, copy_done, error, execute, flush, kinds, message, parse,
                  query, rows, sync, terminate)

MIB = 1 << 20


@pytest.fixture
def direct(pg):
    """The same protocol straight to PostgreSQL."""
    raw = Raw((pg.host, pg.port))
    raw.login()
    yield raw
    raw.close()


@pytest.fixture
def table(pg):
    pg.admin("create table loaded (n int, t text); alter table loaded owner to app", database="shop")
    yield "loaded"
    pg.admin("drop table loaded", database="shop")


def cpu(one) -> float:
    """Seconds of CPU the pooler has used, all its threads and those that have ended, to the nanosecond."""
    # What clock_getcpuclockid(3) makes of a process id; Python does not offer it.
    return time.clock_gettime(~one.process.pid << 3 | 2)


def idles(one) -> bool:
    """Whether the pooler uses little CPU for a second."""
    before = cpu(one)
    stays(lambda: True, 1.0)
    used = cpu(one) - before
    print(f"{used:.3f} s of CPU in a second")
    return used < 0.3


def is_stuck_on_its_client(pg) -> bool:
    """Whether a backend waits for the pooler to take what it has to say."""
    return any(b["wait_event"] == "ClientWrite" for b in pg.backends())


# Requests behind one that makes PostgreSQL forget

LEFT_BEHIND = {
    "set_config": ("select set_config('work_mem', '77MB', false)", "show work_mem", "4MB"),
    "temp table": ("create temp table leak (n int)", "select count(*) from pg_class where relname = 'leak'", "0"),
    "advisory lock": ("select pg_advisory_lock(4711)",
                      "select count(*) from pg_locks where locktype = 'advisory'", "0"),
    "cursor with hold": ("declare leak cursor with hold for select 1",
                         "select count(*) from pg_cursors where name = 'leak'", "0"),
}


def simply(sql):
    return [query(sql)]


def extendedly(sql):
    return [parse(sql), bind(), execute(), sync()]


@pytest.mark.parametrize("trace", LEFT_BEHIND)
@pytest.mark.parametrize("discard", [simply, extendedly])
@pytest.mark.parametrize("speak", [simply, extendedly])
def test_what_is_sent_right_behind_discard_all_leaves_no_trace(doorman, trace, discard, speak):
    """The words of the second request were noted when it was sent, and wiped when DISCARD ALL was done."""
    does, looks, clean = LEFT_BEHIND[trace]
    one = doorman(size=1)
    first = one.raw()
    first.send(*discard("discard all"), *speak(does))
    for _ in range(2):
        assert "E" not in kinds(first.read_until("Z"))
    assert one.raw().value(looks) == clean
    assert first.value("select 1") == "1"


def test_discard_temp_and_a_temp_table_in_one_query_leave_nothing(doorman):
    """DISCARD TEMP, done, wiped what was noted of the statement behind it."""
    one = doorman(size=1)
    first = one.raw()
    assert kinds(first.ask(query("discard temp; create temp table x (n int)"))) == "CCZ"
    assert one.raw().value("select count(*) from pg_class where relname = 'x'") == "0"
    assert first.value("select 1") == "1"


@pytest.mark.parametrize("before", ["unknown", "known to the server", "known to the client"])
@pytest.mark.parametrize("how", ["deallocate all", "discard all"])
def test_a_statement_prepared_right_behind_deallocate_all_is_there(doorman, how, before):
    """The pooler took it to be on the server, or forgot it, as if it had been prepared before."""
    text = "select 'behind'"
    one = doorman(size=1)
    first, other = one.raw(), one.raw()
    if before == "known to the server":
        other.ask(parse(text, "o"), bind((), "o"), execute(), sync())
    elif before == "known to the client":
        first.ask(parse(text, "s"), bind((), "s"), execute(), sync())
    first.send(query(how), parse(text, "s"), bind((), "s"), execute(), sync())
    assert kinds(first.read_until("Z")) == "CZ"
    assert kinds(first.read_until("Z")) == "12DCZ"
    assert rows(first.ask(bind((), "s"), execute(), sync())) == [[b"behind"]]
    assert kinds(other.ask(parse(text, "t"), bind((), "t"), execute(), sync())) == "12DCZ"
    if before == "known to the server":
        # What another client forgets is none of this one's business.
        assert kinds(other.ask(bind((), "o"), execute(), sync())) == "2DCZ"
    assert rows(first.ask(bind((), "s"), execute(), sync())) == [[b"behind"]]


def test_deallocate_all_and_a_new_statement_in_one_batch(doorman, direct):
    """The same with a single Sync: nothing may be guessed of what comes behind."""
    batch = [parse("deallocate all"), bind(), execute(), parse("select 1", "b"), bind((), "b"), execute(), sync()]
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    for _ in range(2):
        assert kinds(raw.ask(*batch)) == kinds(direct.ask(*batch)) == "12C12DCZ"
        assert kinds(raw.ask(bind((), "b"), execute(), sync())) == "2DCZ"
        assert kinds(other.ask(parse("select 1"), bind(), execute(), sync())) == "12DCZ"


# Errors in batches

@pytest.mark.parametrize("who", ["the same", "another"])
def test_sync_after_a_failed_parse_while_a_large_statement_waits_to_be_closed(doorman, mode, who):
    """The pooler's own Close went out before the Sync, where PostgreSQL passes over it, and its reply was awaited."""
    one = doorman(mode=mode, size=1)
    first = one.raw()
    large = f"select '{'x' * 20_000}'"
    assert kinds(first.ask(parse(large, "large"), bind((), "large"), execute(), sync())) == "12DCZ"
    if mode == "session" and who == "another":
        first.close()
    raw = first if who == "the same" else one.raw()
    raw.send(parse("no sql at all"), flush())
    assert raw.read_until("E")[-1].code == "42601"
    assert kinds(raw.ask(sync())) == "Z"
    assert raw.status == "I"
    assert kinds(raw.ask(parse("select 1"), bind(), execute(), sync())) == "12DCZ"
    assert raw.value("select 1") == "1"
    if mode == "transaction":
        large_ones = "select count(*) from pg_prepared_statements where length(statement) > 16384"
        wait_until(lambda: raw.value(large_ones) == "0", what="the large statement is closed")
        assert kinds(first.ask(bind((), "large"), execute(), sync())) == "2DCZ"


@pytest.mark.parametrize("name", ["", "s"])
@pytest.mark.parametrize("fails", ["select 1/0", "select 1/n from generate_series(0, 0) n"],
                         ids=["at Bind", "at Execute"])
def test_a_parse_that_an_error_kept_from_running_is_not_counted_on(doorman, direct, mode, fails, name):
    """The first batch fails before its second Parse, and the next, already on its way, left its own out."""
    batches = [parse(fails), bind(), execute(), parse("select 777", name), bind((), name), execute(), sync(),
               parse("select 777", name), bind((), name), execute(), sync()]
    raw = doorman(mode=mode, size=1).raw()
    for connection in (raw, direct):
        connection.send(*batches)
        assert kinds(connection.read_until("Z")) in ("1EZ", "12EZ")
        seen = connection.read_until("Z")
        assert kinds(seen) == "12DCZ", seen
        assert rows(seen) == [[b"777"]]
    assert rows(raw.ask(bind((), name), execute(), sync())) == [[b"777"]]


def test_a_name_whose_parse_an_error_kept_from_running_is_unknown(doorman, direct, mode):
    batches = [parse("select 1/0"), bind(), execute(), parse("select 777", "s"), sync(),
               bind((), "s"), execute(), sync()]
    for connection in (doorman(mode=mode, size=1).raw(), direct):
        connection.send(*batches)
        assert kinds(connection.read_until("Z")) == "1EZ"
        assert error(connection.read_until("Z")).code == "26000"


@pytest.mark.parametrize("speak", [simply, extendedly])
def test_what_came_before_an_unknown_message_is_answered(doorman, mode, speak):
    """A Query and an unknown message in one write: the Query had an error for an answer."""
    one = doorman(mode=mode)
    raw = one.raw()
    raw.send(*speak("select 42"), message(b"!", b""))
    seen = raw.read_until("E")
    assert kinds(seen) == ("TDCZE" if speak is simply else "12DCZE"), seen
    assert rows(seen) == [[b"42"]]
    assert seen[-1].code == "08P01"
    assert raw.at_end()
    assert one.serves()


@pytest.mark.parametrize("name", ["DOORMAN_orders", "DOORMAN_0", "DOORMAN_1", "DOORMAN_2"])
def test_a_relation_that_is_named_as_the_poolers_statements_keeps_its_name(doorman, direct, mode, name):
    """In messages the pooler puts the client's name in place of its own, and did so to others' too."""
    raw = doorman(mode=mode).raw()
    for n in range(3):
        raw.ask(parse(f"select {n}", f"mine{n}"), bind((), f"mine{n}"), execute(), sync())
    sql = f'select * from "{name}"'
    for request in (simply(sql), extendedly(sql), [parse(sql, "mine9"), sync()]):
        told = error(raw.ask(*request))
        assert told.text == f'relation "{name}" does not exist'
        assert told.fields == error(direct.ask(*request)).fields


# Clients that do not read, or are gone

def test_a_client_that_does_not_read_while_its_backend_ends_costs_no_cpu(doorman, pg, mode):
    """The closed server connection was told to be ready for ever, and nobody had room for what it said."""
    one = doorman(mode=mode, size=1)
    slow = one.raw(receive_buffer=4096)
    slow.send(query("select repeat('x', 1000) from generate_series(1, 100000)"))
    slow.read_until("T")
    wait_until(lambda: is_stuck_on_its_client(pg), what="the backend waits for the client")
    pg.terminate(*pg.pids())
    assert idles(one)
    slow.vanish()
    assert one.serves()


@pytest.mark.parametrize("queries", [1, 3000])
def test_a_console_client_that_half_closes_without_reading_costs_no_cpu(doorman, queries):
    """The end of its stream was ready to be read for ever, while the replies could not be written."""
    one = doorman()
    raw = one.raw(login=False, receive_buffer=4096)
    raw.login(password=ADMIN_PASSWORD, user="admin", database="pgdoorman")
    assert raw.status == "I"
    raw.send(*[query("show config")] * queries)
    raw.socket.shutdown(socket.SHUT_WR)
    assert idles(one)
    assert one.console("show version")


@pytest.mark.parametrize("leave", ["close", "vanish"])
def test_a_client_that_vanishes_in_the_middle_of_a_large_row(doorman, pg, mode, leave):
    """The rest of the row was awaited on behalf of somebody who was gone."""
    one = doorman(mode=mode, size=1)
    raw = one.raw(receive_buffer=4096)
    raw.send(query("select repeat('x', 50 * 1024 * 1024)"))
    raw.read_until("T")
    raw.socket.recv(1000)
    wait_until(lambda: is_stuck_on_its_client(pg), what="the backend waits for the client")
    getattr(raw, leave)()
    assert one.serves()
    assert idles(one)


@pytest.mark.parametrize("leave", ["close", "half-close"])
@pytest.mark.parametrize("copy", [
    [query("copy loaded from stdin")],
    [query("copy loaded from stdin"), copy_data(b"1\tx\n")],
    [parse("copy loaded from stdin"), bind(), execute(), flush()],
    [parse("copy loaded from stdin"), bind(), execute(), sync()],
    [query("begin"), query("copy loaded from stdin")],
], ids=["simple", "with data", "flush", "sync", "in a transaction"])
def test_copy_and_terminate_in_one_write_give_the_backend_back(doorman, table, mode, copy, leave):
    """PostgreSQL asked for data when the client was gone already, and nobody told it that none would come."""
    one = doorman(mode=mode, size=1)
    raw = one.raw()
    raw.send(*copy, terminate())
    if leave == "close":
        raw.close()
    else:
        raw.socket.shutdown(socket.SHUT_WR)
    next_one = one.raw()
    assert next_one.value("select count(*) from loaded") == "0"
    assert next_one.status == "I"


@pytest.mark.parametrize("done", [True, False], ids=["ended", "not ended"])
@pytest.mark.parametrize("size", [1000, MIB])
def test_a_copy_that_fails_while_much_is_still_sent_gives_the_backend_back(doorman, table, size, done):
    """What came behind the error kept the server connection, also when no more came."""
    one = doorman(size=1)
    raw = one.raw()
    raw.send(query("copy loaded from stdin"))
    raw.read_until("G")
    raw.send(copy_data(b"not a number\tx\n"))
    block = copy_data(b"1\t" + b"x" * size + b"\n")
    for _ in range(30):
        raw.send(block * (MIB // size))
    if done:
        raw.send(copy_done())
    assert error(raw.read_until("Z")).code == "22P02"
    wait_until(lambda: int(one.pool()["sv_active"]) == 0, what="the backend is back")
    assert one.serves()
    assert raw.value("select count(*) from loaded") == "0"


def test_a_copy_that_fails_in_the_middle_of_a_message_gives_the_backend_back(doorman, table):
    """The same, with the client halfway through a message when it is told."""
    one = doorman(size=1)
    raw = one.raw()
    raw.send(query("copy loaded from stdin"))
    raw.read_until("G")
    block = copy_data(b"1\t" + b"x" * 4 * MIB + b"\n")
    raw.send(copy_data(b"not a number\tx\n"), block[:MIB])
    assert error(raw.read_until("Z")).code == "22P02"
    raw.send(block[MIB:])
    wait_until(lambda: int(one.pool()["sv_active"]) == 0, what="the backend is back")
    assert one.serves()
    assert raw.value("select count(*) from loaded") == "0"


@pytest.mark.parametrize("insert", [simply, extendedly])
@pytest.mark.parametrize("its_turn", ["comes long after", "comes at once"])
def test_the_request_of_a_client_that_left_the_queue_is_not_run(doorman, table, mode, insert, its_turn):
    """Its turn came when its client was gone without a Terminate, and its request was run for nobody."""
    one = doorman(mode=mode, size=1)
    holder = one.raw()
    holder.ask(query("begin"))
    raw = one.raw()
    request = insert("insert into loaded values (1)")
    raw.send(*request)
    wait_until(lambda: one.waiting() == 1, what="it waits")
    raw.vanish()
    if its_turn == "comes long after":
        wait_until(lambda: one.waiting() == 0, what="it has left the queue")
    holder.ask(query("commit"))
    if mode == "session":
        holder.close()
    next_one = one.raw()
    assert stays(lambda: next_one.value("select count(*) from loaded") == "0", 0.3)


# Settings

@pytest.fixture
def etc_utc(pg):
    """The server's default time zone is Etc/UTC."""
    def make(name, sql):
        pg.admin(sql)
        pg.admin("select pg_reload_conf()")
        wait_until(lambda: pg.admin("show timezone")[0]["TimeZone"] == name, what=f"the default is {name}")

    make("Etc/UTC", "alter system set timezone = 'Etc/UTC'")
    yield "Etc/UTC"
    make("UTC", "alter system reset timezone")


@pytest.mark.parametrize("requests", [
    [[query("set timezone = 'Etc/UTC'")], [query("reset work_mem")]],
    [[query("set timezone = 'Etc/UTC'"), query("reset work_mem")]],
], ids=["two writes", "one write"])
def test_reset_of_one_setting_leaves_another_that_was_set_to_the_servers_default(doorman, mode, etc_utc, requests):
    """Any RESET was taken to undo a SET whose value happened to be the server's default."""
    one = doorman(mode=mode, size=1)
    raw = one.raw(TimeZone="Asia/Tokyo")
    assert raw.value("show timezone") == "Asia/Tokyo"
    for written in requests:
        raw.send(*written)
        for _ in written:
            raw.read_until("Z")
    for _ in range(2):
        assert raw.value("show timezone") == etc_utc
        assert raw.parameters["TimeZone"] == etc_utc
        if mode == "transaction":
            assert one.raw(TimeZone="Europe/Oslo").value("show timezone") == "Europe/Oslo"


# DEALLOCATE name

SPELLINGS = ["deallocate s", "DEALLOCATE PREPARE s", 'deallocate "s";', "Deallocate  S ;", 'deallocate prepare "s"']
USE = [bind((), "s"), execute(), sync()]


def gist(messages):
    """What must be the same as from PostgreSQL: kinds, tags, codes, words, rows and the status."""
    return [(m.kind, (m.code, m.text) if m.kind == "E" else m.body) for m in messages if m.kind not in "SNA"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("steps", [
    [[query("DEALLOCATE")], USE],
    [[query("begin")], [query("DEALLOCATE")], [query("select 1")], [query("commit")], USE],
    [[query("begin")], [query("select 1/0")], [query("DEALLOCATE")], [query("rollback")], USE],
    [[query("DEALLOCATE")], [query("DEALLOCATE")]],
    [[query("begin")], [query("DEALLOCATE")], [query("DEALLOCATE")], [query("rollback")]],
    [[query("deallocate never_there")], USE],
    [[query('deallocate "S"')], USE],
    [[query("begin")], [query("deallocate never_there")], [query("commit")], USE],
], ids=["idle", "in a transaction", "in a failed transaction", "twice", "twice in a transaction", "unknown",
        "another case", "unknown in a transaction"])
def test_deallocate_of_a_statement_that_was_prepared_by_the_protocol(doorman, direct, mode, steps, spelling):
    """PostgreSQL knows it by another name: 26000. psycopg does this with its 101st statement."""
    raw = doorman(mode=mode, size=1).raw()
    named = [[query(spelling) if part == query("DEALLOCATE") else part for part in step] for step in steps]
    prepares, prepares_anew = [parse("select 'old'", "s"), *USE], [parse("select 'new'", "s"), *USE]
    for step in [[close_statement("s"), sync()], prepares, *named, [close_statement("s"), sync()], prepares_anew]:
        assert gist(raw.ask(*step)) == gist(direct.ask(*step)), step
        assert raw.status == direct.status


@pytest.mark.parametrize("steps", [
    [extendedly("DEALLOCATE s"), USE],
    [[query("begin")], extendedly("DEALLOCATE s"), [query("select 1")], [query("commit")], USE],
    [[query("begin")], [query("select 1/0")], extendedly("DEALLOCATE s"), [query("rollback")], USE],
    [extendedly("DEALLOCATE s"), extendedly("DEALLOCATE s")],
    [extendedly("DEALLOCATE never_there"), USE],
], ids=["idle", "in a transaction", "in a failed transaction", "twice", "unknown"])
def test_deallocate_in_the_extended_protocol(doorman, direct, mode, steps):
    """That is how psycopg up to 3.1 sends it, with PQsendQueryParams; others in a pipeline."""
    raw = doorman(mode=mode, size=1).raw()
    prepares, prepares_anew = [parse("select 'old'", "s"), *USE], [parse("select 'new'", "s"), *USE]
    for step in [prepares, *steps, [close_statement("s"), sync()], prepares_anew]:
        assert gist(raw.ask(*step)) == gist(direct.ask(*step)), step
        assert raw.status == direct.status


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_deallocated_name_is_free_for_a_new_statement(doorman, mode, spelling):
    """Without any Close in between, for this client, while another goes on with the same text."""
    one = doorman(mode=mode, size=1 if mode == "transaction" else 2)
    raw, other = one.raw(), one.raw()
    for connection in (raw, other):
        assert kinds(connection.ask(parse("select 'old'", "s"), *USE)) == "12DCZ"
    for text in ("new", "newer"):
        done = raw.ask(query(spelling))
        assert (kinds(done), done[0].tag, raw.status) == ("CZ", "DEALLOCATE", "I")
        assert rows(raw.ask(parse(f"select '{text}'", "s"), *USE)) == [[text.encode()]]
        assert rows(other.ask(*USE)) == [[b"old"]]


def test_parse_deallocate_and_parse_again_in_one_write(doorman, mode):
    raw = doorman(mode=mode, size=1).raw()
    raw.send(parse("select 'old'", "s"), *USE, query("deallocate s"), parse("select 'new'", "s"), *USE,
             query("deallocate s"), *USE)
    assert rows(raw.read_until("Z")) == [[b"old"]]
    assert kinds(raw.read_until("Z")) == "CZ"
    assert rows(raw.read_until("Z")) == [[b"new"]]
    assert kinds(raw.read_until("Z")) == "CZ"
    assert error(raw.read_until("Z")).code == "26000"


@pytest.mark.parametrize("pipeline", [False, True], ids=["one by one", "pipeline"])
def test_psycopg_with_more_statements_than_it_keeps_in_and_out_of_transactions(doorman, mode, pipeline):
    """It drops the least recently used, whatever state the connection is in."""
    connection = doorman(mode=mode, size=1).connect(prepare_threshold=0)
    connection.prepared_max = 3
    for _ in range(2):
        for n in range(10):
            assert connection.execute(f"select {n} + %s::int", (n,)).fetchone() == (2 * n,)
        with connection.transaction():
            for n in range(10):
                assert connection.execute(f"select {n} + %s::int", (n,)).fetchone() == (2 * n,)
        if pipeline:
            with connection.pipeline():
                cursors = [connection.execute(f"select {n} + %s::int", (n,)) for n in range(10)]
                assert [cursor.fetchone()[0] for cursor in cursors] == list(range(0, 20, 2))


# Sizes

@pytest.mark.parametrize("name", ["", "large"])
def test_a_parse_of_16_mb_costs_four_times_one_of_4_mb(doorman, mode, name):
    """All that had come was copied with every piece that came: sixteen times as much work."""
    one = doorman(mode=mode, size=1)
    raw = one.raw()
    raw.value("select 1")

    def cost(size, letter):
        sql = f"select length('{letter * size}')"
        before = cpu(one)
        seen = raw.ask(parse(sql, name), bind((), name), execute(), sync())
        used = cpu(one) - before
        assert rows(seen) == [[str(size).encode()]]
        raw.ask(close_statement(name), sync())
        return used

    cost(MIB, "w")
    small, large = (min(cost(size, letter) for letter in "abc") for size in (4 * MIB, 16 * MIB))
    print(f"processor time: {small:.3f} s and {large:.3f} s")
    assert large < 9 * small
