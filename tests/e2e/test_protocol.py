"""Messages through the pooler: the same replies in the same order as from PostgreSQL.

Where it is cheap the test asks PostgreSQL directly too and compares.
"""

import struct
import threading
import time

import psycopg
import pytest

from wait import wait_until
from wire import (Raw, bind, close_portal, close_statement, copy_data, copy_done, copy_fail, describe_portal,
                  describe_statement, error, execute, flush, function_call, kinds, message, parse, query, rows, sync,
                  terminate)

MIB = 1 << 20


@pytest.fixture
def raw(doorman, mode):
    return doorman(mode=mode, size=2).raw()


@pytest.fixture
def direct(pg):
    """The same protocol straight to PostgreSQL."""
    raw = Raw((pg.host, pg.port))
    raw.login()
    yield raw
    raw.close()


# Simple protocol

@pytest.mark.parametrize("sql", [
    "select 1",
    "select 1; select 2; select 'three', null",
    "",
    ";",
    " ; ; ",
    "-- nothing but a comment",
    "select 1 where false",
    "begin; select 1; commit",
    "select 1/0",
    "select 1; select 1/0; select 2",
    "no sql at all",
    "create temp table t (n int); insert into t values (1), (2); update t set n = 3; drop table t",
    "do $$ begin raise notice 'a notice'; raise warning 'and a warning'; end $$",
    "explain select 1",
    "values (1), (2), (3)",
    "begin; declare c cursor for select generate_series(1, 5); fetch 2 from c; fetch all from c; close c; end",
    "set local work_mem = '1MB'",
    "show work_mem",
    "select repeat('x', 100000) from generate_series(1, 20)",
], ids=range(19))
def test_simple_queries_answer_as_postgresql_does(raw, direct, sql):
    for _ in range(2):
        ours, theirs = raw.ask(query(sql)), direct.ask(query(sql))
        assert kinds(ours) == kinds(theirs)
        assert ours == theirs


def test_a_transaction_over_several_queries(raw):
    for sql, status in [("begin", "T"), ("select 1", "T"), ("select 1/0", "E"), ("select 1", "E"), ("rollback", "I")]:
        raw.ask(query(sql))
        assert raw.status == status


def test_many_simple_queries_at_once(raw):
    raw.send(*[query(f"select {n}") for n in range(500)])
    for n in range(500):
        assert rows(raw.read_until("Z")) == [[str(n).encode()]]


# Extended protocol

@pytest.mark.parametrize("batch", [
    [parse("select $1::int + 1"), bind(["41"]), execute(), sync()],
    [parse("select $1::int + 1"), describe_statement(), sync()],
    [parse("select 1"), bind(), describe_portal(), execute(), sync()],
    [parse("select 1", "named"), describe_statement("named"), bind((), "named"), execute(), close_statement("named"), sync()],
    [parse("select generate_series(1, 5)"), bind((), "", "p"), execute("p", 2), execute("p", 2), execute("p", 2), close_portal("p"), sync()],
    [parse(""), bind(), execute(), sync()],
    [parse("select 1"), sync()],
    [sync()],
    [close_statement("never there"), close_portal("neither"), sync()],
    [parse("select 1/0"), bind(), execute(), sync()],
    [parse("no sql at all"), bind(), execute(), sync()],
    [parse("select 1"), bind(), execute(), parse("nonsense"), bind(), execute(), parse("select 2"), bind(), execute(), sync()],
    [parse("select $1::int"), bind(["not a number"]), execute(), sync()],
    [parse("select $1::int"), bind([]), execute(), sync()],
    [bind((), "never there"), execute(), sync()],
    [describe_statement("never there"), sync()],
    [describe_portal("never there"), sync()],
    [execute("never there"), sync()],
    [close_statement("twice"), parse("select 1", "twice"), parse("select 2", "twice"), sync()],
    [parse("insert into pg_temp.nowhere values (1)"), bind(), execute(), sync()],
    [parse("begin"), bind(), execute(), parse("select 1"), bind(), execute(), parse("commit"), bind(), execute(), sync()],
    [parse("select 1"), bind(), execute(), parse("select 2"), bind(), execute(), parse("select 3"), bind(), execute(), sync()],
    [parse("select null"), bind(), describe_portal(), execute(), sync()],
    [parse("set local work_mem = '1MB'"), bind(), describe_portal(), execute(), sync()],
    [parse("select repeat('y', 50000) from generate_series(1, 50)"), bind(), execute(), sync()],
], ids=range(25))
def test_batches_answer_as_postgresql_does(raw, direct, batch):
    for _ in range(2):
        ours, theirs = raw.ask(*batch), direct.ask(*batch)
        assert kinds(ours) == kinds(theirs)
        assert [m for m in ours if m.kind != "E"] == [m for m in theirs if m.kind != "E"]
        # The pooler's own errors do not say where in PostgreSQL's source they come from.
        told = [[{field: value for field, value in m.fields.items() if field not in "FLR"}
                 for m in said if m.kind == "E"] for said in (ours, theirs)]
        assert told[0] == told[1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_way_bytes_arrive_makes_no_difference(raw, size):
    """Half messages, and messages that share a packet."""
    stream = b"".join([parse("select $1::text"), bind(["x" * 300]), describe_portal(), execute(), sync(),
                       query("select 2"), query("select 3")])
    for at in range(0, len(stream), size):
        raw.send(stream[at:at + size])
    assert kinds(raw.read_until("Z")) == "12TDCZ"
    assert rows(raw.read_until("Z")) == [[b"2"]]
    assert rows(raw.read_until("Z")) == [[b"3"]]


def test_pipelining_many_batches(raw):
    """All sent before the first reply is read."""
    batches = 300
    raw.send(*[part for n in range(batches) for part in
               (parse(f"select {n}"), bind(), describe_portal(), execute(), sync())])
    for n in range(batches):
        seen = raw.read_until("Z")
        assert kinds(seen) == "12TDCZ"
        assert rows(seen) == [[str(n).encode()]]


def test_an_error_spoils_only_its_own_batch(raw):
    raw.send(parse("select 1"), bind(), execute(), sync(),
             parse("select 1/0"), bind(), execute(), parse("select 2"), bind(), execute(), sync(),
             parse("select 3"), bind(), execute(), sync())
    assert kinds(raw.read_until("Z")) == "12DCZ"
    # PostgreSQL computes 1/0 when it plans, that is at Bind.
    assert kinds(raw.read_until("Z")) == "1EZ"
    seen = raw.read_until("Z")
    assert kinds(seen) == "12DCZ" and rows(seen) == [[b"3"]]


def test_flush_gives_replies_without_an_end(raw):
    raw.send(parse("select 7"), describe_statement(), flush())
    assert kinds(raw.read_until("T")) == "1tT"
    raw.send(bind(), execute(), flush())
    assert kinds(raw.read_until("C")) == "2DC"
    assert kinds(raw.ask(sync())) == "Z"
    assert raw.value("select 1") == "1"


def test_flush_after_an_error_still_waits_for_sync(raw):
    raw.send(parse("nonsense"), flush())
    assert raw.read_until("E")[-1].code == "42601"
    raw.send(parse("select 1"), bind(), execute(), flush())
    assert kinds(raw.ask(sync())) == "Z"


def test_flush_in_the_middle_of_a_transaction_keeps_the_backend(raw):
    raw.send(parse("select pg_backend_pid()"), bind(), execute(), flush())
    first = rows(raw.read_until("C"))
    raw.send(parse("select pg_backend_pid()"), bind(), execute(), sync())
    assert rows(raw.read_until("Z")) == first


def test_a_portal_fetched_in_steps_inside_a_transaction(raw):
    raw.ask(query("begin"))
    seen = raw.ask(parse("select generate_series(1, 5)"), bind((), "", "p"), execute("p", 2), sync())
    assert kinds(seen) == "12DDsZ"
    assert kinds(raw.ask(execute("p", 2), sync())) == "DDsZ"
    assert kinds(raw.ask(execute("p", 0), sync())) == "DCZ"
    raw.ask(query("commit"))
    assert raw.status == "I"


def test_simple_and_extended_mixed(raw):
    raw.send(query("begin"), parse("select 1"), bind(), execute(), sync(), query("select 2"), query("commit"))
    assert [kinds(raw.read_until("Z")) for _ in range(4)] == ["CZ", "12DCZ", "TDCZ", "CZ"]


def test_a_batch_without_sync_and_then_a_query(raw, direct):
    """Query ends the batch, as PostgreSQL has it."""
    batch = [parse("select 1"), bind(), execute(), query("select 2")]
    assert kinds(raw.ask(*batch)) == kinds(direct.ask(*batch)) == "12DCTDCZ"


def test_terminate_in_the_middle(doorman, mode):
    one = doorman(mode=mode, size=1)
    for parts in ([parse("select 1"), terminate()], [query("begin"), terminate()],
                  [parse("select pg_sleep(0.05)"), bind(), execute(), terminate()],
                  [query("copy (select generate_series(1, 100000)) to stdout"), terminate()]):
        raw = one.raw()
        raw.send(*parts)
        raw.read_until("never")
        assert one.serves()


def test_function_call(raw, direct):
    """As pgjdbc's large objects use it: int4 + int4 is function 177."""
    call = function_call(177, [struct.pack("!i", 40), struct.pack("!i", 2)])
    assert raw.ask(call) == direct.ask(call)
    assert kinds(raw.ask(call)) == "VZ"
    assert kinds(raw.ask(function_call(1, []))) == "EZ"
    raw.send(query("begin"), call, query("commit"))
    assert [kinds(raw.read_until("Z")) for _ in range(3)] == ["CZ", "VZ", "CZ"]


def test_an_unknown_message_is_a_protocol_error(doorman):
    one = doorman()
    raw = one.raw()
    raw.send(message(b"y", b"what"))
    assert raw.read_until("E")[-1].code == "08P01"
    assert raw.at_end()
    assert one.serves()


def test_notices_come_through_in_both_protocols(raw):
    sql = "do $$ begin for n in 1..100 loop raise notice 'n %', n; end loop; end $$"
    assert [m.text for m in raw.ask(query(sql)) if m.kind == "N"] == [f"n {n}" for n in range(1, 101)]
    seen = raw.ask(parse(sql), bind(), execute(), sync())
    assert len([m for m in seen if m.kind == "N"]) == 100


def test_notifications_reach_a_listener_while_it_is_idle(doorman, pg):
    one = doorman(mode="session")
    listener = one.raw()
    listener.ask(query("listen news"))
    pg.admin("select pg_notify('news', 'hello')", database="shop")
    assert b"hello" in listener.read_until("A")[-1].body
    assert listener.value("select 1") == "1"


def test_notifications_reach_a_listener_inside_a_transaction_it_ends(doorman, mode):
    """In transaction mode LISTEN and its news belong to the transaction."""
    raw = doorman(mode=mode).raw()
    seen = raw.ask(query("begin; listen news; notify news, 'own'; commit"))
    assert any(m.kind == "A" and b"own" in m.body for m in seen)


def test_a_reload_of_postgresql_is_told(doorman, pg, mode):
    """ParameterStatus that nobody asked for."""
    raw = doorman(mode=mode).raw()
    raw.value("select 1")
    try:
        pg.admin("alter system set datestyle = 'German'")
        pg.admin("select pg_reload_conf()")
        wait_until(lambda: raw.value("show datestyle").startswith("German"), what="the new default is in effect")
        assert raw.parameters["DateStyle"].startswith("German")
    finally:
        pg.admin("alter system reset datestyle")
        pg.admin("select pg_reload_conf()")
    assert raw.value("select 1") == "1"


# COPY

@pytest.fixture
def table(pg):
    pg.admin("create table loaded (n int, t text); alter table loaded owner to app", database="shop")
    yield "loaded"
    pg.admin("drop table loaded", database="shop")


def lines(count):
    return b"".join(b"%d\tline %d\n" % (n, n) for n in range(count))


def test_copy_in(raw, table):
    raw.send(query(f"copy {table} from stdin"))
    assert raw.read_until("G")[-1].kind == "G"
    data = lines(20000)
    for at in range(0, len(data), 7919):
        raw.send(copy_data(data[at:at + 7919]))
    seen = raw.ask(copy_done())
    assert seen[-2].tag == "COPY 20000"
    assert raw.value(f"select sum(n) from {table}") == str(sum(range(20000)))


def test_copy_in_by_the_extended_protocol(raw, table):
    raw.send(parse(f"copy {table} from stdin"), bind(), execute(), flush())
    assert kinds(raw.read_until("G")) == "12G"
    raw.send(copy_data(lines(10)), copy_done())
    assert kinds(raw.ask(sync())) == "CZ"
    assert raw.value(f"select count(*) from {table}") == "10"


def test_copy_in_all_at_once(raw, table, direct):
    """Nothing waits for CopyInResponse; Sync within COPY is ignored by PostgreSQL."""
    batch = [parse(f"copy {table} from stdin"), bind(), execute(), copy_data(lines(10)), copy_done(), sync()]
    assert kinds(raw.ask(*batch)) == "12GCZ"
    assert raw.value(f"select count(*) from {table}") == "10"
    # As libpq's PQsendQueryParams does: Sync goes out before the data.
    raw.send(parse(f"copy {table} from stdin"), bind(), describe_portal(), execute(), sync())
    assert kinds(raw.read_until("G")) == "12nG"
    raw.send(copy_data(lines(10)), copy_done(), sync())
    assert kinds(raw.read_until("Z")) == "CZ"
    assert raw.value(f"select count(*) from {table}") == "20"


def test_copy_in_given_up_by_the_client(raw, table):
    raw.send(query(f"copy {table} from stdin"))
    raw.read_until("G")
    seen = raw.ask(copy_data(lines(5)), copy_fail("changed my mind"))
    assert error(seen).code == "57014"
    assert "changed my mind" in error(seen).text
    assert raw.value(f"select count(*) from {table}") == "0"


def test_copy_in_refused_by_postgresql(raw, table):
    raw.send(query(f"copy {table} from stdin"))
    raw.read_until("G")
    raw.send(copy_data(b"not a number\tx\n"))
    # The client has not noticed yet and goes on.
    for _ in range(100):
        raw.send(copy_data(lines(100)))
    raw.send(copy_done())
    assert error(raw.read_until("Z")).code == "22P02"
    assert raw.value(f"select count(*) from {table}") == "0"


def test_copy_in_refused_in_the_extended_protocol(raw, table):
    raw.send(parse(f"copy {table} from stdin"), bind(), execute(), flush())
    raw.read_until("G")
    raw.send(copy_data(b"not a number\tx\n"), copy_data(lines(5)), copy_done(), sync())
    assert kinds(raw.read_until("Z")) == "EZ"
    assert raw.value(f"select count(*) from {table}") == "0"


def test_copy_out(raw):
    seen = raw.ask(query("copy (select generate_series(1, 50000)) to stdout"))
    assert kinds(seen) == "H" + "d" * 50000 + "cCZ"
    seen = raw.ask(parse("copy (select generate_series(1, 1000)) to stdout"), bind(), execute(), sync())
    assert kinds(seen) == "12H" + "d" * 1000 + "cCZ"


def test_copy_in_and_out_in_one_query(raw, table):
    raw.send(query(f"copy {table} from stdin; copy {table} to stdout; select count(*) from {table}"))
    raw.read_until("G")
    seen = raw.ask(copy_data(lines(3)), copy_done())
    assert kinds(seen) == "CHdddcCTDCZ"


def test_copy_holds_its_backend(doorman, table):
    """Other clients do not get into the middle of a COPY."""
    one = doorman(size=2)
    raw, other = one.raw(), one.connect()
    raw.send(query(f"copy {table} from stdin"))
    raw.read_until("G")
    for _ in range(10):
        raw.send(copy_data(lines(10)))
        assert other.execute("select 1").fetchone() == (1,)
    assert raw.ask(copy_done())[-2].tag == "COPY 100"


def test_copy_by_psycopg(doorman, mode, table):
    connection = doorman(mode=mode).connect()
    with connection.cursor() as cursor:
        with cursor.copy(f"copy {table} from stdin") as copy:
            for n in range(1000):
                copy.write_row((n, "x" * 100))
        with cursor.copy(f"copy {table} to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 1000


# Sizes

@pytest.mark.parametrize("size", [8000, 8191, 8192, 8193, 65535, 65536, 65537, MIB, 3 * MIB + 1])
def test_rows_around_the_size_of_buffers(raw, size):
    assert len(raw.value(f"select repeat('x', {size})")) == size
    seen = raw.ask(parse("select length($1::text)"), bind(["y" * size]), execute(), sync())
    assert rows(seen) == [[str(size).encode()]]


def test_a_row_of_100_mb_is_streamed(doorman, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.value("select 1")
    one.forget_peak()
    before = one.resident_kib()
    raw.send(query("select 'before'; select repeat('x', 100 * 1024 * 1024); select 'after'"))
    seen, total = raw.discard_until_ready()
    assert seen == "TDCTDCTDCZ"
    assert total > 100 * MIB
    assert one.peak_kib() - before < 8 * 1024
    assert raw.value("select 1") == "1"


def test_a_copy_of_100_mb_is_streamed(doorman, table):
    one = doorman()
    raw = one.raw()
    raw.value("select 1")
    one.forget_peak()
    before = one.resident_kib()
    raw.send(query("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout"))
    seen, total = raw.discard_until_ready()
    assert total > 100_000_000
    raw.send(query(f"copy {table} from stdin"))
    raw.read_until("G")
    block = copy_data(b"1\t" + b"x" * MIB + b"\n")
    for _ in range(50):
        raw.send(block)
    assert raw.ask(copy_done())[-2].tag == "COPY 50"
    assert one.peak_kib() - before < 8 * 1024


def test_a_million_small_rows(doorman, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.value("select 1")
    one.forget_peak()
    before = one.resident_kib()
    # Not discard_until_ready(): in Python that takes long for small messages.
    raw.send(query("select generate_series(1, 1000000); select 'the end'"))
    total, tail = 0, b""
    while not tail.endswith(b"Z\0\0\0\5I"):
        piece = raw.socket.recv(1 << 20)
        total += len(piece)
        tail = (tail + piece)[-100:]
    assert b"the end" in tail
    assert total > 12_000_000
    assert one.peak_kib() - before < 8 * 1024


def test_a_query_of_50_mb(doorman, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.value("select 1")
    before = one.resident_kib()
    sql = "select length('" + "x" * (50 * MIB) + "')"
    assert raw.value(sql) == str(50 * MIB)
    assert rows(raw.ask(parse(sql), bind(), execute(), sync())) == [[str(50 * MIB).encode()]]
    assert rows(raw.ask(parse("select length($1)"), bind(["x" * (50 * MIB)]), execute(), sync())) \
        == [[str(50 * MIB).encode()]]
    assert raw.value("select 1") == "1"
    wait_until(lambda: one.resident_kib() - before < 16 * 1024, what="the memory is given back")


def test_a_client_that_sends_much_before_it_reads(doorman, mode):
    """Both directions full at once: neither may wait for the other."""
    one = doorman(mode=mode)
    raw = one.raw()
    batches, size = 200, 200_000
    sending = threading.Thread(target=lambda: [
        raw.send(parse("select $1::text"), bind(["x" * size]), execute(), sync()) for _ in range(batches)])
    sending.start()
    for _ in range(batches):
        seen, total = raw.discard_until_ready()
        assert seen == "12DCZ" and total > size
    sending.join(20)


# Slow readers

def test_a_slow_reader_delays_nobody(doorman):
    one = doorman(size=2)
    slow = one.raw(receive_buffer=4096)
    slow.send(query("select repeat('x', 1000) from generate_series(1, 100000)"))
    slow.read_until("T")
    other = one.connect()
    for n in range(200):
        assert other.execute("select %s::int", (n,)).fetchone() == (n,)


def test_a_slow_reader_gets_everything_in_the_end(doorman):
    one = doorman(size=2, general={"proxy_copy_data_timeout": "3s"})
    slow = one.raw(receive_buffer=65536)
    slow.send(query("select repeat('x', 20 * 1024 * 1024)"))
    total, pauses, tail = 0, 0, b""
    begin = time.monotonic()
    while not tail.endswith(b"Z\0\0\0\5I"):
        piece = slow.socket.recv(65536)
        assert piece, f"cut after {total} bytes"
        total += len(piece)
        tail = (tail + piece)[-6:]
        # Slow but alive, for longer than the limit on inactivity.
        if time.monotonic() - begin < 4:
            pauses += 1
            time.sleep(0.02)
    assert pauses > 10 and total > 20 * MIB


def test_a_slow_reader_does_not_keep_the_backend_after_its_transaction(doorman, pg):
    """Its reply waits for it in the pooler; the server connection serves the next."""
    one = doorman(size=1, general={"tcp_socket_buffer_size": 4096})
    slow = one.raw(receive_buffer=4096)
    slow.value("select 1")

    def reached_the_server(tag):
        return pg.admin("select 1 from pg_stat_activity where usename = 'app' and query like %s and state = 'idle'",
                        f"%{tag}")

    for n in range(2000):
        slow.send(query(f"select repeat('x', 4000) -- reply {n}."))
        try:
            wait_until(lambda: reached_the_server(f"reply {n}."), timeout=1)
        except AssertionError:
            break
    else:
        pytest.fail("the client's socket never filled")
    assert one.serves()


def test_psycopg_pipeline(doorman, mode):
    connection = doorman(mode=mode).connect()
    with connection.pipeline():
        cursors = [connection.execute("select %s::int", (n,)) for n in range(200)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(200))


def test_psycopg_pipeline_with_an_error(doorman, mode):
    connection = doorman(mode=mode).connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        with connection.pipeline():
            connection.execute("select 1")
            connection.execute("select 1/0")
            connection.execute("select 2")
    assert connection.execute("select 3").fetchone() == (3,)


def test_an_unfinished_statement_may_take_so_much_memory_and_no_more(doorman):
    one = doorman(general={"max_memory_usage": "1MB"})
    raw = one.raw()
    raw.send(parse("select 1 /*" + "x" * 2_000_000 + "*/", name="huge"))
    refused = error(raw.read_until("E"))
    assert refused.code == "53200" and "max_memory_usage" in refused.text
    assert raw.at_end()
    # What is done with counts no longer, and what passes in pieces never counts.
    for number in range(3):
        again = one.raw()
        again.send(parse(f"select {number} /*" + "x" * 800_000 + "*/", name="large"), bind(statement="large"),
                   execute(), sync())
        assert rows(again.read_until("Z")) == [[str(number).encode()]]
        assert again.value("select 'passed' /*" + "x" * 2_000_000 + "*/") == "passed"
