"""The pool: who gets which server connection, when, and what becomes of it afterwards."""

import threading
import time

import psycopg
import pytest

from postgres import free_port
from wait import stays, wait_until
from wire import bind, error, execute, kinds, parse, query, sync


def pid(connection):
    return connection.execute("select pg_backend_pid()").fetchone()[0]


def test_transaction_mode_shares_backends(doorman, pg):
    one = doorman(size=2)
    clients = [one.connect() for _ in range(10)]
    for client in clients:
        client.execute("select 1")
    assert 1 <= len(pg.pids()) <= 2


def test_a_transaction_keeps_its_backend(doorman):
    one = doorman(size=2)
    a, b = one.connect(), one.connect()
    with a.transaction():
        mine = pid(a)
        for _ in range(5):
            assert pid(b) != mine
            assert pid(a) == mine


def test_who_has_only_begun_keeps_no_backend_from_others(doorman, pg):
    """What comes behind is in the transaction all the same."""
    one = doorman(size=1, general={"query_wait_timeout": "2s"})
    one.connect().execute("create table if not exists thought_over (n int)")
    thinks, works = one.raw(), one.raw()
    assert kinds(thinks.ask(query("begin;"))) == "CZ" and thinks.status == "T"
    assert works.value("select 1") == "1"
    thinks.ask(query("insert into thought_over values (1)"))
    assert thinks.status == "T"
    assert thinks.value("select count(*) from thought_over") == "1"
    assert error(works.ask(query("select 1"))).code == "53300", "now it has one"
    thinks.ask(query("rollback;"))
    assert thinks.status == "I"
    assert thinks.value("select count(*) from thought_over") == "0"


def test_a_transaction_with_nothing_in_it_needs_no_backend(doorman):
    one = doorman(size=1)
    holder, raw = one.raw(), one.raw()
    holder.ask(query("begin; select 1"))
    for end in ("commit;", "rollback"):
        assert raw.ask(query("begin;"))[0].tag == "BEGIN" and raw.status == "T"
        assert kinds(raw.ask(sync())) == "Z" and raw.status == "T"
        assert raw.ask(query(end))[0].tag == end.strip(";").upper() and raw.status == "I"
    assert one.waiting() == 0
    assert int(one.pool()["sv_active"]) == 1


def test_a_batch_behind_a_begin_is_in_its_transaction(doorman):
    one = doorman(size=1)
    raw = one.raw()
    raw.ask(query("begin;"))
    assert kinds(raw.ask(parse("set local work_mem = '1234kB'"), bind(), execute(), sync())) == "12CZ"
    assert raw.status == "T"
    assert raw.value("show work_mem") == "1234kB"
    assert error(raw.ask(query("select 1/0"))).code == "22012" and raw.status == "E"
    assert raw.ask(query("commit;"))[0].tag == "ROLLBACK" and raw.status == "I"


def test_a_second_begin_is_postgresqls_to_warn_of(doorman):
    raw = doorman().raw()
    raw.ask(query("begin;"))
    warned = next(reply for reply in raw.ask(query("begin;")) if reply.kind == "N")
    assert warned.code == "25001" and raw.status == "T"


def test_a_client_that_has_only_begun_is_not_between_transactions(doorman):
    """A pooler that shuts down lets it finish."""
    one = doorman(size=1)
    raw, idle = one.raw(), one.raw()
    raw.ask(query("begin;"))
    one.console("shutdown")
    assert idle.at_end()
    assert raw.value("select 1") == "1" and raw.status == "T"
    raw.ask(query("commit;"))
    assert raw.at_end()
    assert one.wait() == 0


def test_session_mode_keeps_the_backend_until_the_client_leaves(doorman, pg):
    one = doorman(mode="session", size=2, general={"query_wait_timeout": "2s"})
    a, b = one.connect(), one.connect()
    mine = pid(a)
    assert pid(b) != mine
    assert pid(a) == mine
    late = one.raw()
    assert error(late.ask(query("select 1"))).code == "53300"
    a.close()
    wait_until(lambda: int(one.pool()["sv_idle"]) == 1, what="the backend is back")
    assert pid(one.connect()) == mine


def test_the_pool_mode_may_be_the_users_own(doorman, pg):
    one = doorman(mode="transaction", users=[
        {"username": "app", "password": "", "pool_size": 2, "pool_mode": "session"},
        {"username": "jürgen", "password": "", "pool_size": 1}])
    a, b = one.connect(), one.connect()
    assert pid(a) != pid(b)
    assert one.pool()["pool_mode"].lower() == "session"
    c, d = one.connect(user="jürgen"), one.connect(user="jürgen")
    assert pid(c) == pid(d)


def test_idle_backends_are_taken_last_in_first_out(doorman):
    """The rest of the pool may then grow old and be closed."""
    one = doorman(size=3)
    a, b, c = one.connect(), one.connect(), one.connect()
    with a.transaction(), b.transaction(), c.transaction():
        for each in (a, b, c):
            pid(each)
    assert len({pid(a) for _ in range(10)}) == 1


def test_round_robin_uses_all_of_them(doorman):
    one = doorman(size=3, general={"server_round_robin": True})
    a, b, c = one.connect(), one.connect(), one.connect()
    with a.transaction(), b.transaction(), c.transaction():
        for each in (a, b, c):
            pid(each)
    assert len({pid(a) for _ in range(9)}) == 3


def test_first_come_first_served(doorman, background):
    one = doorman(size=1)
    holder = one.connect()
    waiters = [one.connect() for _ in range(8)]

    def take(client):
        return client.execute("select clock_timestamp()").fetchone()[0]

    with holder.transaction():
        holder.execute("select 1")
        served = []
        for place, client in enumerate(waiters, 1):
            served.append(background(take, client))
            wait_until(lambda: one.waiting() == place, what=f"{place} clients wait")
    times = [future.result(10) for future in served]
    assert times == sorted(times)


def test_a_newcomer_does_not_overtake_the_queue(doorman, background):
    """One client that takes the connection again and again does not starve a waiting one."""
    one = doorman(size=1)
    greedy, modest = one.connect(), one.connect()
    stop = threading.Event()

    def grab():
        rounds = 0
        while not stop.is_set():
            greedy.execute("select 1")
            rounds += 1
        return rounds

    grabbing = background(grab)
    for _ in range(50):
        modest.execute("select 1")
    stop.set()
    # Each of its turns came after one of the other's, or two.
    assert 0 < grabbing.result(10)


def test_query_wait_timeout(doorman):
    one = doorman(size=1, general={"query_wait_timeout": "2s"})
    holder, waiter = one.connect(), one.raw()
    with holder.transaction():
        holder.execute("select 1")
        begin = time.monotonic()
        told = error(waiter.ask(query("select 1")))
        took = time.monotonic() - begin
        assert told.code == "53300"
        assert "query_wait_timeout" in told.text
        assert took > 1.9
        assert holder.execute("select 2").fetchone() == (2,)
    assert one.waiting() == 0


def test_a_request_that_timed_out_leaves_nothing_behind(doorman):
    """What was sent with it is not run later, by nobody."""
    one = doorman(size=1, general={"query_wait_timeout": "2s"})
    one.connect().execute("create table if not exists late (n int)")
    holder, waiter = one.connect(), one.raw()
    with holder.transaction():
        holder.execute("select 1")
        waiter.ask(parse("insert into late values (1)"), bind(), execute(), sync())
    assert one.connect().execute("select count(*) from late").fetchone() == (0,)
    one.connect().execute("drop table late")


def test_pool_size_is_never_passed(doorman, pg, background):
    one = doorman(size=3)
    stop, most = threading.Event(), [0]

    def watch():
        while not stop.is_set():
            most[0] = max(most[0], len(pg.pids()))

    def work():
        client = one.connect()
        for _ in range(20):
            client.execute("select pg_sleep(0.002)")
        client.close()

    watching = background(watch)
    for done in [background(work) for _ in range(20)]:
        done.result(30)
    stop.set()
    watching.result(10)
    assert most[0] == 3


def test_min_pool_size_is_kept_warm(doorman, pg):
    one = doorman(size=4, user={"min_pool_size": 2, "server_username": "app", "server_password": "app-secret"},
                  general={"retain_connections_time": "200ms"})
    wait_until(lambda: len(pg.pids()) == 2, what="two backends before any client")
    pg.terminate(*pg.pids())
    wait_until(lambda: len(pg.pids()) == 2, what="they are replaced")
    assert one.serves()


def test_dead_pooled_connections_cost_nothing(doorman, pg):
    one = doorman(size=3)
    clients = [one.connect() for _ in range(3)]
    for _ in range(3):
        with clients[0].transaction(), clients[1].transaction(), clients[2].transaction():
            before = {pid(client) for client in clients}
        assert len(before) == 3
        wait_until(lambda: int(one.pool()["sv_idle"]) == 3, what="all lie idle")
        pg.terminate(*before)
        for client in clients:
            assert pid(client) not in before


def test_dead_pooled_connections_cost_a_batch_nothing(doorman, pg):
    """The same in the extended protocol, where more than one message is under way."""
    one = doorman(size=1)
    client = one.connect()
    for n in range(3):
        # One that was heard from a moment ago is not looked at.
        wait_until(lambda: int(one.pool()["sv_idle"]) == 1, what="it lies idle")
        pg.terminate(*pg.pids())
        assert client.execute("select %s::int + 1", (n,)).fetchone() == (n + 1,)


def test_idle_session_mode_client_learns_that_its_backend_is_gone(doorman, pg):
    one = doorman(mode="session")
    raw = one.raw()
    pg.terminate(int(raw.value("select pg_backend_pid()")))
    told = raw.read_until("E")[-1]
    assert told.code == "57P01"
    assert raw.at_end()


def test_a_restart_of_postgresql_is_survived_by_idle_clients(doorman, pg):
    one = doorman(size=2)
    clients = [one.connect() for _ in range(5)]
    for client in clients:
        client.execute("select 1")
    pg.restart()
    for client in clients:
        assert client.execute("select 1").fetchone() == (1,)


def test_a_server_that_is_down_is_told_and_found_again(doorman, pg):
    one = doorman(general={"connect_timeout": "5s", "query_wait_timeout": "5s"})
    one.serves()
    pg.stop()
    try:
        raw = one.raw(login=False)
        seen = raw.login()
        if raw.status == "I":
            seen = raw.ask(query("select 1"))
        assert error(seen).code in ("57P03", "08006")
    finally:
        pg.start_again()
    wait_until(lambda: serves(one), what="the pooler serves again")


def serves(one):
    try:
        return one.serves()
    except psycopg.Error:
        return False


def test_server_lifetime(doorman, pg):
    one = doorman(size=1, general={"server_lifetime": "300ms", "retain_connections_time": "100ms"})
    client = one.connect()
    first = pid(client)
    wait_until(lambda: pid(client) != first, what="the backend is replaced")
    wait_until(lambda: len(pg.pids()) == 1, what="the old one is gone")


def test_idle_timeout(doorman, pg):
    one = doorman(size=3, general={"idle_timeout": "300ms", "retain_connections_time": "100ms",
                                   "retain_connections_max": 0})
    clients = [one.connect() for _ in range(3)]
    with clients[0].transaction(), clients[1].transaction(), clients[2].transaction():
        assert len({pid(client) for client in clients}) == 3
    wait_until(lambda: not pg.pids(), what="idle backends are closed")
    assert clients[0].execute("select 1").fetchone() == (1,)


def test_the_pools_own_limits_win(doorman, pg):
    one = doorman(size=1, pool={"idle_timeout": "300ms"}, general={"idle_timeout": "1h", "retain_connections_time": "100ms"})
    one.serves()
    wait_until(lambda: not pg.pids(), what="idle backends are closed")


def test_a_client_that_hangs_up_gives_the_backend_back(doorman, mode):
    one = doorman(mode=mode, size=1)
    for leave in ("close", "vanish"):
        raw = one.raw()
        raw.value("select 1")
        getattr(raw, leave)()
        assert one.serves()


def test_clients_in_the_queue_may_leave(doorman):
    one = doorman(size=1)
    holder = one.connect()
    with holder.transaction():
        holder.execute("select 1")
        waiters = [one.raw() for _ in range(5)]
        for raw in waiters:
            raw.send(query("select 1"))
        wait_until(lambda: one.waiting() == 5, what="five clients wait")
        for raw in waiters:
            raw.vanish()
        wait_until(lambda: one.waiting() == 0, what="the queue is empty")
    assert one.serves()


def test_databases_do_not_share(doorman, pg):
    one = doorman(size=1, pools={"second": {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": "app", "password": "", "pool_size": 1}]}})
    a, b = one.connect(), one.connect(database="second")
    with a.transaction(), b.transaction():
        assert a.execute("select current_database()").fetchone() == ("shop",)
        assert b.execute("select current_database()").fetchone() == ("second",)


def test_server_database_may_have_another_name(doorman):
    one = doorman(pool={"server_database": "second"})
    assert one.connect().execute("select current_database()").fetchone() == ("second",)


def test_the_server_may_be_reached_by_unix_socket(doorman, pg):
    one = doorman(pool={"server_host": pg.directory})
    assert one.serves()


def test_an_unreachable_server_is_bounded_by_one_deadline(doorman):
    one = doorman(pool={"server_host": "127.0.0.1", "server_port": free_port()},
                  general={"query_wait_timeout": "1s", "connect_timeout": "1s"})
    raw = one.raw(login=False)
    assert error(raw.login()).code == "08006"


def test_many_short_connections(doorman, pg, mode):
    one = doorman(mode=mode, size=2)
    for _ in range(200):
        raw = one.raw()
        assert raw.value("select 1") == "1"
        raw.close()
    assert len(pg.pids()) <= 2
    assert stays(lambda: len(pg.pids()) <= 2, 0.1)


def test_a_client_that_takes_nothing_of_a_huge_row_loses_its_session(doorman, mode):
    """Its server connection goes to those who wait for one."""
    one = doorman(mode=mode, size=1, general={"proxy_copy_data_timeout": "500ms", "query_wait_timeout": "60s"})
    idler = one.raw(receive_buffer=4096)
    idler.send(query("select repeat('x', 100000000)"))
    wait_until(lambda: one.pool()["sv_active"] == 1)
    assert one.raw().value("select 'served'") == "served"
    wait_until(lambda: "read nothing of a row of more than 1 MiB for 500ms (proxy_copy_data_timeout)" in one.log())


def test_a_client_that_reads_a_huge_row_slowly_keeps_its_session(doorman):
    one = doorman(general={"proxy_copy_data_timeout": "3s"})
    slow = one.raw(receive_buffer=4096)
    slow.send(query("select repeat('x', 100000000)"))
    # All in all longer than the limit, and never for that long without a byte.
    for _ in range(16):
        assert slow.sip(100_000)
        time.sleep(0.25)
    assert slow.discard_until_ready()[1] > 100_000_000
    assert slow.value("select 1") == "1"


def test_a_client_that_takes_nothing_of_many_small_rows_keeps_its_session(doorman):
    one = doorman(general={"proxy_copy_data_timeout": "100ms"})
    idler = one.raw(receive_buffer=4096)
    idler.send(query("select repeat('x', 1000) from generate_series(1, 50000)"))
    wait_until(lambda: one.pool()["sv_active"] == 1)
    assert stays(lambda: one.pool()["sv_active"] == 1, 0.5)
    assert idler.discard_until_ready()[1] > 50_000_000


def test_a_dead_server_does_not_fill_the_log(doorman, pg):
    one = doorman(pool={"server_port": free_port()}, user={"min_pool_size": 4},
                  general={"scaling_max_parallel_creates": 4, "query_wait_timeout": "100ms"})
    for _ in range(20):
        raw = one.raw(login=False)
        assert error(raw.login()).code == "08006"
    assert one.log().count("could not connect to PostgreSQL at") == 1


@pytest.fixture
def two_users(doorman, pg):
    """Users app and scram share two connections to the database."""
    def start(**pool):
        users = [{"username": name, "password": pg.verifier(name), "pool_size": 2, "server_username": name,
                  "server_password": f"{name}-secret"} for name in ("app", "scram")]
        return doorman(users=users, pool={"max_db_connections": 2, "min_connection_lifetime": 0, **pool})
    return start


def test_users_of_a_database_share_its_connections(two_users, pg):
    """An idle connection of one makes way for the other, as often as need be."""
    one = two_users()
    for _ in range(3):
        for user in ("app", "scram"):
            clients = [one.raw(user=user) for _ in range(2)]
            for client in clients:
                client.ask(query("begin"))
            for client in clients:
                assert client.value("select current_user") == user
                client.ask(query("commit"))
                client.close()
    pools = [one.pool(user=user) for user in ("app", "scram")]
    assert [row["sv_idle"] for row in pools] == [0, 2]


def test_who_waits_for_a_busy_database_is_served_by_what_gets_free(two_users):
    one = two_users()
    holders = [one.raw(user="app") for _ in range(2)]
    for holder in holders:
        holder.ask(query("begin"))
    waiter = one.raw(login=False)
    waiter.startup(user="scram", database="shop")
    wait_until(lambda: one.pool(user="scram")["cl_waiting"] == 1)
    holders[0].ask(query("commit"))
    assert waiter.authenticate("scram", "")[-1].kind == "Z"
    assert waiter.value("select current_user") == "scram"


def test_a_user_without_a_place_is_told_why(two_users):
    one = two_users(reserve_pool_timeout=200)
    holders = [one.raw(user="app") for _ in range(2)]
    for holder in holders:
        holder.ask(query("begin"))
    refused = error(one.raw(login=False).login(user="scram"))
    assert refused.code == "53300"
    assert "all server connections to database 'shop' are in use (max=2, user='scram')" in refused.text
    (row,) = one.console("show pool_coordinator")
    assert row["exhaustions"] == 1
    holders[0].ask(query("commit"))
    assert one.raw(user="scram").value("select 1") == "1"


def test_the_console_tells_how_users_share_a_database(two_users):
    one = two_users()

    def shown():
        (row,) = one.console("show pool_coordinator")
        return row

    assert shown() == {"database": "shop", "max_db_conn": 2, "current": 0, "reserve_size": 0, "reserve_used": 0,
                       "evictions": 0, "reserve_acq": 0, "exhaustions": 0}
    holders = [one.raw(user="app") for _ in range(2)]
    for holder in holders:
        holder.ask(query("begin"))
    for holder in holders:
        holder.ask(query("commit"))
    other = one.raw(user="scram")
    other.ask(query("begin"))
    assert (shown()["current"], shown()["evictions"]) == (2, 1)
    holders[0].ask(query("begin"))
    one.config["pools"]["shop"].update(reserve_pool_size=1, reserve_pool_timeout=200)
    one.reload()
    holders[1].ask(query("begin"))
    assert (shown()["current"], shown()["reserve_used"], shown()["reserve_acq"]) == (3, 1, 1)
    one.upgrade()
    assert (shown()["current"], shown()["reserve_used"], shown()["reserve_acq"], shown()["evictions"]) == (3, 1, 1, 1)


def test_a_reload_changes_the_limit(two_users):
    one = two_users()
    holders = [one.raw(user="app") for _ in range(2)]
    for holder in holders:
        holder.ask(query("begin"))
    waiter = one.raw(login=False)
    waiter.startup(user="scram", database="shop")
    wait_until(lambda: one.pool(user="scram")["cl_waiting"] == 1)
    one.config["pools"]["shop"]["max_db_connections"] = 3
    one.reload()
    assert waiter.authenticate("scram", "")[-1].kind == "Z"


def test_an_upgrade_takes_the_places_along(two_users, pg):
    one = two_users(reserve_pool_timeout=200)
    holders = [one.raw(user="app") for _ in range(2)]
    for holder in holders:
        holder.ask(query("begin"))
    one.upgrade()
    assert error(one.raw(login=False).login(user="scram")).code == "53300"
    holders[0].ask(query("commit"))
    assert one.raw(user="scram").value("select 1") == "1"
    wait_until(lambda: len(pg.pids(None)) == 2, what="there are as many backends as there may be")
