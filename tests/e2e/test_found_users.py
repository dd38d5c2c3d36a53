"""Users that the configuration does not name: auth_query, and [pools."*"]."""

import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from doorman import CHECKOUT
from wait import wait_until
from wire import error

SCRAM_RULES = {"content": "host all all 127.0.0.1/32 scram-sha-256\n"}
MD5_RULES = {"content": "host all all 127.0.0.1/32 md5\n"}
PASSWORD = "finder-secret"
ROLE, DATABASE = "found_{}", "db_{}"


def manual_sql() -> str:
    """What the manual says to paste."""
    text = (CHECKOUT / "contrib/doc/logins.md").read_text()
    return re.search(r"```sql\n(.*?get_auth.*?)```", text, re.S).group(1).replace("'change-me'", f"'{PASSWORD}'")


@pytest.fixture(scope="module")
def finder(pg):
    """The role that runs the query, as the manual makes it; returns the table for the configuration."""
    pg.admin("set password_encryption = 'scram-sha-256'")
    pg.admin(manual_sql())
    yield {"query": "SELECT passwd FROM pgdoorman.get_auth($1)", "user": "pgdoorman_auth", "password": PASSWORD,
           "database": "postgres"}
    pg.admin("drop schema pgdoorman cascade; drop role pgdoorman_auth")


@pytest.fixture
def role(pg, request):
    """Makes roles: `role("joe")`; each has the password NAME-secret."""
    made = []

    def make(name: str, encryption: str = "scram-sha-256", more: str = "") -> str:
        pg.admin(f"set password_encryption = '{encryption}'; create role {name} login password '{name}-secret' {more}")
        made.append(name)
        return name

    yield make
    for name in made:
        pids = pg.pids(name)
        pg.terminate(*pids)
        pg.admin(f"drop role if exists {name}")


def login(doorman, user, database="shop", password=None, **options):
    connection = doorman.connect(user, database, password=password or f"{user}-secret", **options)
    return connection.execute("select current_user, current_database()").fetchone()


def by_psql(doorman, user, database):
    done = subprocess.run(["psql", "-XAt", "-h", doorman.host, "-p", str(doorman.port), "-U", user, database,
                           "-c", "select current_user, current_database()"], check=True, capture_output=True, text=True,
                          env={**os.environ, "PGPASSWORD": f"{user}-secret"})
    return done.stdout.strip()


def refused(doorman, user, database="shop", password=None):
    with pytest.raises(psycopg.OperationalError) as failed:
        login(doorman, user, database, password)
    return str(failed.value)


def counts(doorman, database="shop"):
    row = next(row for row in doorman.console("show auth_query") if row["database"] == database)
    return {key: int(value) for key, value in row.items() if key != "database"}


# auth_query

@pytest.mark.parametrize("where", ["pool", "general"])
def test_a_user_who_is_not_in_the_file(doorman, finder, role, where):
    joe = role("joe")
    table = {"auth_query": finder}
    one = doorman(general={"pg_hba": SCRAM_RULES, **(table if where == "general" else {})},
                  pool=table if where == "pool" else {})
    assert login(one, joe) == (joe, "shop")
    assert 'password authentication failed for user "joe"' in refused(one, joe, password="wrong")
    assert 'password authentication failed for user "stranger"' in refused(one, "stranger")
    now = counts(one)
    assert now["auth_success"] == 1 and now["auth_failure"] == 2 and now["dynamic_pools_current"] == 1


def test_names_are_no_part_of_the_query(doorman, finder, pg):
    pg.admin("create role \"o'joe\" login password 'secret'")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": finder})
    assert login(one, "o'joe", password="secret") == ("o'joe", "shop")
    refused(one, "' or true --", password="secret")
    one.stop()
    pg.admin("drop role \"o'joe\"")


def test_users_of_the_file_come_first(doorman, finder, pg):
    """Its password there counts, and the query is not run."""
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": finder})
    assert login(one, "app") == ("app", "shop")
    assert counts(one)["executor_queries"] == 0


def test_a_user_with_an_md5_hash(doorman, finder, role, pg):
    role("old", "md5")
    with pg.rules("host all pgdoorman_auth 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 md5\n"):
        one = doorman(general={"pg_hba": MD5_RULES}, pool={"auth_query": {**finder, "min_interval": "0s"}})
        assert login(one, "old") == ("old", "shop")
        one.disconnect_all()
        # The new password works at once: the same challenge is checked against the new hash.
        pg.admin("set password_encryption = 'md5'; alter role old password 'new'")
        assert login(one, "old", password="new") == ("old", "shop")
        assert counts(one)["cache_refetches"] == 1


def test_all_found_users_as_one_role(doorman, finder, role, pg):
    role("joe"), role("jane")
    one = doorman(general={"pg_hba": SCRAM_RULES},
                  pool={"auth_query": {**finder, "server_user": "scram", "server_password": "scram-secret",
                                       "pool_size": 1}})
    assert login(one, "joe") == ("scram", "shop")
    assert login(one, "jane") == ("scram", "shop")
    assert len(pg.pids("scram")) == 1
    assert "password authentication failed" in refused(one, "jane", password="joe-secret")
    assert {row["user"] for row in one.console("show clients") if row["database"] == "shop"} == {"scram"}


def test_an_answer_is_remembered_and_so_is_that_there_is_none(doorman, finder, role):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "min_interval": "1h"}})
    for _ in range(3):
        assert login(one, joe) == (joe, "shop")
        refused(one, "stranger")
    now = counts(one)
    assert (now["executor_queries"], now["cache_hits"], now["cache_misses"]) == (2, 4, 2)
    assert now["cache_rate_limited"] == 2 and now["cache_entries"] == 2


def test_a_changed_password(doorman, finder, role, pg):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES},
                  pool={"pool_size": 2, "auth_query": {**finder, "min_interval": "0s"}})
    first = one.connect(joe, password="joe-secret")
    pid = first.execute("select pg_backend_pid()").fetchone()
    pg.admin("alter role joe password 'new'")
    # SCRAM: the client has used the old salt, so the first login fails as with PostgreSQL it would not.
    refused(one, joe, password="new")
    assert login(one, joe, password="new") == (joe, "shop")
    assert "password authentication failed" in refused(one, joe, password="joe-secret")
    # A session goes on, on its own connection and with new ones.
    assert first.execute("select pg_backend_pid()").fetchone() == pid
    pg.terminate(*pg.pids(joe))
    assert first.execute("select 1").fetchone() == (1,)


def test_a_changed_password_without_a_cache(doorman, finder, role, pg):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "cache_ttl": "0s"}})
    assert login(one, joe) == (joe, "shop")
    pg.admin("alter role joe password 'new'")
    assert login(one, joe, password="new") == (joe, "shop")


def test_an_old_password_that_postgresql_no_longer_takes(doorman, finder, role, pg):
    """It is remembered, and proved; PostgreSQL's word counts, and the next login asks again."""
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "min_interval": "1h"}})
    assert login(one, joe) == (joe, "shop")
    one.disconnect_all()
    pg.admin("alter role joe password 'new'")
    pg.terminate(*pg.pids(joe))
    wait_until(lambda: "closed" in one.log())
    assert wait_until(lambda: not int(one.pool("shop", joe)["sv_idle"])) is True
    refused(one, joe)
    assert login(one, joe, password="new") == (joe, "shop")


def test_a_removed_role(doorman, finder, role, pg):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "cache_ttl": "0s"}})
    assert login(one, joe) == (joe, "shop")
    one.disconnect_all()
    pg.admin("drop role joe")
    assert 'password authentication failed for user "joe"' in refused(one, joe)


def test_a_role_that_comes_later(doorman, finder, role):
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "min_interval": "0s"}})
    refused(one, "joe")
    # That there is none is remembered; the failed login itself has asked again.
    joe = role("joe")
    refused(one, joe)
    assert login(one, joe) == (joe, "shop")


def test_a_restart_of_postgresql(doorman, finder, role, pg):
    joe, jane = role("joe"), role("jane")
    one = doorman(general={"pg_hba": SCRAM_RULES, "query_wait_timeout": "30s"}, pool={"auth_query": finder})
    assert login(one, joe) == (joe, "shop")
    pg.restart()
    assert login(one, jane) == (jane, "shop")
    pg.stop()
    with ThreadPoolExecutor() as threads:
        waits = threads.submit(login, one, role_later := "later")
        wait_until(lambda: counts(one)["executor_queries"] == 3)
        pg.start_again()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            waits.result()
    assert role_later


def test_while_postgresql_is_down(doorman, finder, role, pg):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES, "query_wait_timeout": "300ms"}, pool={"auth_query": finder})
    pg.stop()
    try:
        raw = one.raw(login=False)
        fields = error(raw.login(user=joe)).fields
        assert (fields["C"], fields["M"]) == ("58000", "Authentication service unavailable. Please try again later.")
    finally:
        pg.start_again()
    assert login(one, joe) == (joe, "shop")


def test_many_logins_of_one_user_run_the_query_once(doorman, finder, role, pg):
    joe = role("joe")
    slow = f"SELECT passwd FROM pgdoorman.get_auth($1), {{passage}}"
    with pg.gate("postgres") as gate:
        query = slow.format(passage=gate.passage)
        one = doorman(general={"pg_hba": SCRAM_RULES, "query_wait_timeout": "60s"},
                      pool={"auth_query": {**finder, "query": query}})
        with ThreadPoolExecutor(20) as threads:
            waiting = [threads.submit(login, one, joe) for _ in range(20)]
            wait_until(lambda: gate.stopped() == 1 and counts(one)["cache_misses"] == 20)
            # Nobody else is held up.
            assert login(one, "app") == ("app", "shop")
            assert gate.stopped() == 1
            gate.open()
            assert {future.result() for future in waiting} == {(joe, "shop")}
        assert counts(one)["executor_queries"] == 1


@pytest.mark.parametrize("query, why", [
    ("SELECT 1 FROM nowhere WHERE $1 = ''", "relation \"nowhere\" does not exist"),
    ("SELECT 'hunter2' WHERE $1 <> ''", "neither an MD5 hash nor a SCRAM verifier"),
    ("SELECT 1, 2, 3 WHERE $1 <> ''", "no column passwd or password"),
    ("SELECT '' FROM generate_series(1, 2) WHERE $1 <> ''", "more than one row"),
    ("COPY (SELECT 1 /* $1 */) TO STDOUT", ""),
])
def test_a_wrong_query_is_told_in_the_log_alone(doorman, finder, role, query, why):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": {**finder, "query": query}})
    for _ in range(2):
        assert "Authentication service unavailable" in refused(one, joe)
    one.wait_log(re.escape(why))
    assert "hunter2" not in one.log()


def test_pools_of_found_users_go_when_they_are_not_used(doorman, finder, role):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES, "retain_connections_time": "100ms", "retain_connections_max": 0,
                           "idle_timeout": "100ms"}, pool={"auth_query": finder})
    idle = one.connect(joe, password="joe-secret")
    assert idle.execute("select 1").fetchone() == (1,)
    assert login(one, joe) == (joe, "shop")
    wait_until(lambda: int(one.pool("shop", joe)["sv_idle"]) == 0, what="its connections are closed")
    assert counts(one)["dynamic_pools_current"] == 1
    assert idle.execute("select 1").fetchone() == (1,)
    one.disconnect_all()
    wait_until(lambda: counts(one)["dynamic_pools_current"] == 0)
    assert login(one, joe) == (joe, "shop")


def test_reload(doorman, finder, role):
    joe = role("joe")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": finder})
    session = one.connect(joe, password="joe-secret")
    pid = session.execute("select pg_backend_pid()").fetchone()
    one.config["pools"]["shop"]["pool_size"] = 7
    one.reload()
    wait_until(lambda: next(row for row in one.console("show databases") if row["force_user"] == joe)["pool_size"] == 7)
    assert session.execute("select pg_backend_pid()").fetchone() == pid
    assert counts(one)["cache_entries"] == 1
    del one.config["pools"]["shop"]["auth_query"]
    one.reload()
    wait_until(lambda: not one.console("show auth_query"))
    with pytest.raises(psycopg.OperationalError):
        session.execute("select 1")
    assert "password authentication failed" in refused(one, joe)


def test_an_upgrade(doorman, finder, role, pg):
    joe, jane = role("joe"), role("jane")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": finder})
    session = one.connect(joe, password="joe-secret")
    pid = session.execute("select pg_backend_pid()").fetchone()
    assert login(one, jane) == (jane, "shop")
    for _ in range(2):
        one.upgrade()
        assert session.execute("select pg_backend_pid()").fetchone() == pid
    # It is known who they are, and the key that they have proved opens new connections.
    assert counts(one)["cache_entries"] == 2
    pg.terminate(*pg.pids(joe), *pg.pids(jane))
    assert session.execute("select 1").fetchone() == (1,)
    assert login(one, jane) == (jane, "shop")
    assert counts(one)["executor_queries"] == 0


# Any database

@pytest.fixture(scope="module")
def many(pg, finder):
    """50 roles and 20 databases."""
    pg.admin("set password_encryption = 'scram-sha-256'")
    for n in range(50):
        name = ROLE.format(n)
        pg.admin(f"create role {name} login password '{name}-secret'")
    for n in range(20):
        pg.admin(f"create database {DATABASE.format(n)}")
    yield
    for n in range(20):
        pg.admin(f"drop database {DATABASE.format(n)} with (force)")
    for n in range(50):
        pg.admin(f"drop role {ROLE.format(n)}")


def any_database(doorman, pg, finder, general=None, pool=None):
    """A pooler with nothing but an auth_query user and "*"."""
    one = doorman(general={"pg_hba": SCRAM_RULES, "idle_timeout": "1h", **(general or {})},
                  pools={"*": {"server_host": pg.host, "server_port": pg.port, "auth_query": finder, **(pool or {})}})
    return one


@pytest.mark.limit(180)
def test_fifty_roles_and_twenty_databases(doorman, pg, finder, many):
    one = any_database(doorman, pg, finder, pool={"pool_size": 2})
    pairs = [(ROLE.format(n), DATABASE.format(n % 20)) for n in range(50)]

    def all_can() -> None:
        with ThreadPoolExecutor(8) as threads:
            for pair, got in zip(pairs, threads.map(lambda pair: login(one, *pair), pairs)):
                assert got == pair

    sessions = [one.connect(*pair, password=f"{pair[0]}-secret") for pair in pairs[:20]]
    all_can()
    assert by_psql(one, *pairs[7]) == "|".join(pairs[7])
    one.upgrade()
    for pair, session in zip(pairs, sessions):
        assert session.execute("select current_user, current_database()").fetchone() == pair
    all_can()
    assert by_psql(one, *pairs[7]) == "|".join(pairs[7])


def test_a_database_that_is_not_there(doorman, pg, finder, many):
    """Who has proved who it is hears what PostgreSQL says; a stranger hears what it hears of any other."""
    one = any_database(doorman, pg, finder)
    joe = ROLE.format(1)
    seen = []
    for database in ("nowhere", DATABASE.format(1)):
        for user in (joe, "stranger"):
            seen.append(refused(one, user, database, "wrong").replace(user, "USER"))
    assert len(set(re.sub(r"connection to .*? failed: ", "", text) for text in seen)) == 1
    assert {row["database"] for row in one.console("show pools")} == {"shop"}
    with pytest.raises(psycopg.OperationalError, match='FATAL:  database "nowhere" does not exist'):
        login(one, joe, "nowhere")
    wait_until(lambda: {row["database"] for row in one.console("show pools")} == {"shop"})
    assert not [b for b in pg.backends(None) if b["datname"] not in ("postgres", "shop")]


def test_a_database_that_may_not_be_connected_to(doorman, pg, finder, many):
    one = any_database(doorman, pg, finder)
    closed = DATABASE.format(3)
    pg.admin(f"revoke connect on database {closed} from public")
    with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{closed}"'):
        login(one, ROLE.format(1), closed)
    pg.admin(f"grant connect on database {closed} to public")
    assert login(one, ROLE.format(1), closed) == (ROLE.format(1), closed)


def test_databases_are_limited_and_go_when_they_are_not_used(doorman, pg, finder, many):
    one = any_database(doorman, pg, finder, general={"autodb_max_databases": 2, "autodb_idle_timeout": "1s"})
    joe = ROLE.format(1)
    held = [one.connect(joe, DATABASE.format(n), password=f"{joe}-secret") for n in range(2)]
    assert login(one, ROLE.format(2), DATABASE.format(1))
    with pytest.raises(psycopg.OperationalError, match="too many databases"):
        login(one, joe, DATABASE.format(2))
    held[0].close()
    wait_until(lambda: DATABASE.format(0) not in {row["database"] for row in one.console("show pools")})
    assert held[1].execute("select 1").fetchone() == (1,)
    wait_until(lambda: not [b for b in pg.backends(joe) if b["datname"] == DATABASE.format(0)])
    assert login(one, joe, DATABASE.format(2)) == (joe, DATABASE.format(2))


def test_a_pool_of_its_own_comes_first_and_a_reload_can_bring_one(doorman, pg, finder, many):
    one = any_database(doorman, pg, finder)
    joe, database = ROLE.format(1), DATABASE.format(1)
    session = one.connect(joe, database, password=f"{joe}-secret")
    pid = session.execute("select pg_backend_pid()").fetchone()
    assert "password authentication failed" in refused(one, joe, "shop")
    one.config["pools"][database] = {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": joe, "password": pg.verifier(joe), "pool_size": 3}]}
    one.reload()
    wait_until(lambda: next(r for r in one.console("show databases") if r["name"] == database)["pool_size"] == 3)
    assert session.execute("select pg_backend_pid()").fetchone() == pid
    assert "password authentication failed" in refused(one, ROLE.format(2), database)


def test_a_login_during_an_upgrade(doorman, pg, finder, many):
    """Its pool is made after the others were given."""
    one = any_database(doorman, pg, finder)
    stop = threading.Event()
    failures = []

    def keep_coming(n: int) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(host=one.host, port=one.port, user=ROLE.format(n), password=f"{ROLE.format(n)}-secret",
                                     dbname=DATABASE.format(n % 20), autocommit=True) as connection:
                    assert connection.execute("select current_user").fetchone() == (ROLE.format(n),)
            except Exception as failure:
                failures.append(failure)
            n = (n + 3) % 50

    threads = [threading.Thread(target=keep_coming, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        one.upgrade()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures



# auth_file

def test_users_of_a_file(doorman, pg, tmp_path):
    """Stored and in plain text, beside those of the pool; read again at a reload, and by the successor."""
    hashed, scram = pg.verifier("hashed"), pg.verifier("scram")
    file = tmp_path / "userlist.txt"
    file.write_text(f'; all of them\n"hashed" "{hashed}"\n"clear" "clear-secret"\n"scram" "{scram}" ""\n')
    one = doorman(general={"pg_hba": MD5_RULES, "auth_file": str(file)})
    for _ in range(2):
        for user in ("app", "hashed", "clear", "scram"):
            assert login(one, user) == (user, "shop")
            assert f'password authentication failed for user "{user}"' in refused(one, user, password="wrong")
        assert by_psql(one, "scram", "shop") == "scram|shop"
        assert "password authentication failed" in refused(one, "stranger")
        one.upgrade()
    assert "1 passwords in clear text" in one.log() and "clear-secret" not in one.log()
    file.write_text(f'"clear" "other"\n"scram" "{scram}"\n')
    one.reload()
    wait_until(lambda: "password authentication failed" in refused(one, "clear"), what="the file is read again")
    assert "password authentication failed" in refused(one, "hashed")
    assert login(one, "scram") == ("scram", "shop")
    file.write_text('"scram" nonsense\n')
    one.reload()
    one.wait_log(re.escape(f"{file}:1: general.auth_file: the form of a line is"))
    assert login(one, "scram") == ("scram", "shop")


def test_users_of_a_file_in_any_database(doorman, pg, tmp_path):
    file = tmp_path / "userlist.txt"
    file.write_text(f'"scram" "{pg.verifier("scram")}"\n')
    one = doorman(general={"pg_hba": SCRAM_RULES, "auth_file": str(file)},
                  pools={"*": {"server_host": pg.host, "server_port": pg.port}})
    assert login(one, "scram", "second") == ("scram", "second")
    assert login(one, "scram", "shop") == ("scram", "shop")


# What a stranger sees

def test_a_name_that_nobody_has_is_always_asked_alike(doorman, finder, role):
    """Also after the first user of another kind was found."""
    role("old", "md5")
    one = doorman(general={"pg_hba": MD5_RULES}, pool={"auth_query": finder})

    def asked(user):
        raw = one.raw(login=False)
        raw.startup(user=user, database="shop")
        demand = raw.read().body[:4]
        raw.close()
        return demand

    names = [f"stranger{number}" for number in range(8)]
    before = [asked(name) for name in names]
    with pytest.raises(psycopg.OperationalError):
        one.connect("old", password="wrong")
    assert [asked(name) for name in names] == before


def test_a_user_without_password_is_told(doorman, finder, pg):
    pg.admin("create role mute login")
    one = doorman(general={"pg_hba": SCRAM_RULES}, pool={"auth_query": finder})
    refused(one, "mute")
    refused(one, "stranger")
    one.wait_log('failed for user "mute": the user has no password')
    one.wait_log('failed for user "stranger": there is no such user')
    one.stop()
    pg.admin("drop role mute")


def test_an_auth_query_that_cannot_work_is_refused(doorman, finder):
    one = doorman()
    for wrong, why in [({"query": "select 1"}, "has no $1"), ({"server_user": "scram"}, "needs server_password")]:
        one.config["pools"]["shop"]["auth_query"] = {**finder, **wrong}
        one.write()
        done = subprocess.run([one.program, "-t", str(one.path)], capture_output=True, text=True)
        assert done.returncode != 0 and why in done.stderr
