"""The first packet and the login: who gets in, how, and what the others are told."""

import base64
import hashlib
import os
import stat
import struct
import threading
import time

import psycopg
import pytest

from doorman import ADMIN_PASSWORD
from wait import wait_until
from wire import GSSENC_REQUEST, SSL_REQUEST, Raw, Scram, error, message, query, startup_packet, text

SCRAM_RULES = "host all all 127.0.0.1/32 scram-sha-256\n"
MD5_RULES = "host all all 127.0.0.1/32 md5\n"


@pytest.fixture
def users(pg):
    """A user of each kind of verifier, known to PostgreSQL under the same password."""
    return [{"username": name, "password": pg.verifier(name), "pool_size": 2} for name in ("scram", "hashed")]


# First packet

def test_ssl_and_gss_are_declined_and_the_login_goes_on(doorman):
    raw = doorman().raw(login=False)
    raw.send(GSSENC_REQUEST)
    assert raw.byte() == b"N"
    raw.send(SSL_REQUEST)
    assert raw.byte() == b"N"
    raw.login()
    assert raw.value("select 1") == "1"


@pytest.mark.parametrize("gssencmode", ["prefer", "disable"])
@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
def test_libpq_in_its_usual_ways(doorman, sslmode, gssencmode):
    connection = doorman().connect(sslmode=sslmode, gssencmode=gssencmode)
    assert connection.execute("select 1").fetchone() == (1,)


PROTOCOL_3_2 = (3 << 16) + 2


def negotiated(seen):
    """The version and the options that were not understood, if that was said."""
    said = [m.body for m in seen if m.kind == "v"]
    return [(struct.unpack_from("!i", body)[0], body[8:]) for body in said]


def test_protocol_3_2_needs_no_negotiation_and_has_long_keys(doorman):
    raw = doorman().raw(login=False)
    assert negotiated(raw.login(version=PROTOCOL_3_2)) == []
    assert len(raw.secret) == 32
    assert raw.value("select 1") == "1"


@pytest.mark.parametrize("minor", [0, 1])
def test_older_protocols_have_keys_of_four_bytes(doorman, minor):
    raw = doorman().raw(login=False)
    assert negotiated(raw.login(version=(3 << 16) + minor)) == []
    assert len(raw.secret) == 4


@pytest.mark.parametrize("minor", [3, 9999])
def test_a_newer_minor_protocol_is_negotiated(doorman, minor):
    raw = doorman().raw(login=False)
    assert negotiated(raw.login(version=(3 << 16) + minor)) == [(PROTOCOL_3_2, b"")]
    assert len(raw.secret) == 32
    assert raw.value("select 1") == "1"


@pytest.mark.parametrize("version", [3 << 16, PROTOCOL_3_2])
def test_unknown_protocol_options_are_negotiated_away(doorman, version):
    raw = doorman().raw(login=False)
    seen = raw.login(version=version, **{"_pq_.something_new": "1"})
    assert negotiated(seen) == [(version, b"_pq_.something_new\0")]
    assert raw.value("select 1") == "1"


def test_the_console_speaks_protocol_3_2(doorman):
    raw = doorman().raw(login=False)
    seen = raw.login(ADMIN_PASSWORD, version=PROTOCOL_3_2, user="admin", database="pgdoorman")
    assert negotiated(seen) == [] and raw.status == "I"


def test_protocol_2_is_refused_with_a_message(doorman):
    raw = doorman().raw(login=False)
    raw.startup(version=2 << 16, user="app")
    assert raw.read().kind == "E"
    assert raw.at_end()


def test_empty_values_are_fine(doorman):
    raw = doorman().raw(application_name="", options="")
    assert raw.value("show application_name") == ""


def test_database_defaults_to_the_user(doorman, pg):
    one = doorman(pools={"app": {
        "server_host": pg.host, "server_port": pg.port, "server_database": "shop",
        "users": [{"username": "app", "password": "", "pool_size": 1}]}})
    raw = one.raw(login=False)
    raw.startup(user="app")
    assert raw.authenticate("app", "")[-1].kind == "Z"
    assert raw.value("select current_database()") == "shop"


def test_names_are_utf8(doorman, pg):
    one = doorman(pools={"données": {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": "jürgen", "password": "", "pool_size": 1}]}})
    connection = one.connect(user="jürgen", database="données", application_name="größe")
    assert connection.execute("select current_user, current_database()").fetchone() == ("jürgen", "données")


def test_options_set_parameters(doorman, mode):
    one = doorman(mode=mode, size=1 if mode == "transaction" else 2)
    short = one.raw(options="-c statement_timeout=1234 -c geqo=off")
    plain = one.raw()
    for _ in range(2):
        assert short.value("show statement_timeout") == "1234ms"
        assert short.value("show geqo") == "off"
        assert plain.value("show statement_timeout") == "0"
        assert plain.value("show geqo") == "on"


def test_options_with_escaped_blanks(doorman):
    raw = doorman().raw(options=r"-c search_path=a,\ b --work-mem=8MB")
    assert raw.value("show search_path") == "a, b"
    assert raw.value("show work_mem") == "8MB"


STARTUP = {
    "name-in-cp1251": {"application_name": "учёт".encode("cp1251")},
    "name-in-utf8": {"application_name": "учёт"},
    "name-of-100-letters": {"application_name": "n" * 100},
    "euro": {"options": "-e"},
    "work_mem": {"options": "-S 8192"},
    "no-index-scans": {"options": "-f i -fs"},
    "combined": {"options": "-eS8192"},
    "planner": {"options": "-tpl"},
    "named-wins": {"work_mem": "2MB", "options": "-c work_mem=3MB"},
    "named-wins-behind": {"options": "-c work_mem=3MB", "work_mem": "2MB"},
    "own": {"options": "-c my.name=value"},
    "no-such-argument": {"options": "-x"},
    "no-value": {"options": "-S"},
    "no-such-setting": {"nonsense": "1"},
    "bad-value": {"work_mem": "much"},
    "wrong-unit": {"options": "-c work_mem=10parsecs"},
    "not-now": {"options": "-B 128"},
}


@pytest.mark.parametrize("startup", STARTUP.values(), ids=STARTUP)
def test_a_startup_packet_means_what_it_means_to_postgresql(doorman, pg, mode, startup):
    """Error fields too, DETAIL and HINT among them. Only the default of application_name is the pool's own."""
    def seen(address):
        raw = Raw(address)
        said = raw.login(**startup)
        if said[-1].kind == "Z":
            # A login for which no server connection is free yet is refused with its first request.
            said = raw.ask(query(""))
        if said[-1].kind == "E":
            fields = said[-1].fields
            return {field: fields.get(field) for field in "SCMDH"}
        names = (*(["application_name"] if "application_name" in startup else []), "datestyle", "work_mem", "enable_indexscan", "enable_seqscan", "my.name",
                 "log_planner_stats")
        values = [raw.value(f"select current_setting('{name}', true)") for name in names]
        told = {name: raw.parameters[name] for name in startup if name in raw.parameters}
        raw.close()
        return values, told
    direct = seen((pg.host, pg.port))
    one = doorman(mode=mode)
    assert seen((one.host, one.port)) == direct
    assert one.connect().execute("show work_mem").fetchone() == ("4MB",)


def test_names_are_cut_as_postgresql_cuts_them(doorman, pg):
    name = "u" * 63
    pg.admin(f"create role {name} login superuser")
    try:
        one = doorman(users=[{"username": name, "password": "", "pool_size": 1, "server_username": "app"}])
        assert one.raw(user=name + "ser").value("select 1") == "1"
    finally:
        pg.admin(f"drop role {name}")


def test_a_client_may_begin_scram_after_an_empty_challenge(doorman, users):
    """SASLInitialResponse of length -1."""
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}})
    raw = one.raw(login=False)
    raw.startup(user="scram", database="shop")
    raw.read()
    raw.send(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", -1)))
    assert raw.read().body == struct.pack("!i", 11)
    exchange = Scram("scram-secret")
    raw.send(message(b"p", exchange.first()))
    raw.send(message(b"p", exchange.final(raw.read().body[4:])))
    assert raw.read_until("Z")[-1].kind == "Z"
    assert raw.value("select 1") == "1"


def test_no_user_is_an_error_with_a_message(doorman):
    raw = doorman().raw(login=False)
    raw.startup(database="shop")
    assert raw.read().code == "28000"
    assert raw.at_end()


# Authentication

def test_trust_asks_nothing(doorman):
    seen = doorman().raw(login=False).login()
    assert [m.kind for m in seen].count("R") == 1


def test_scram(doorman, users):
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}})
    connection = one.connect(user="scram", password="scram-secret")
    assert connection.execute("select current_user").fetchone() == ("scram",)


def test_md5(doorman, users):
    one = doorman(users=users, general={"pg_hba": {"content": MD5_RULES}})
    connection = one.connect(user="hashed", password="hashed-secret")
    assert connection.execute("select current_user").fetchone() == ("hashed",)


def test_a_scram_verifier_serves_an_md5_rule(doorman, users):
    one = doorman(users=users, general={"pg_hba": {"content": MD5_RULES}})
    assert one.connect(user="scram", password="scram-secret").execute("select 1").fetchone() == (1,)


def test_an_md5_verifier_is_refused_under_a_scram_rule(doorman, users):
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}})
    with pytest.raises(psycopg.OperationalError):
        one.connect(user="hashed", password="hashed-secret")


@pytest.mark.parametrize("user", ["scram", "hashed", "nobody"])
@pytest.mark.parametrize("password", ["wrong", "", "x" * 5000], ids=["wrong", "empty", "long"])
def test_a_wrong_password_is_refused(doorman, users, user, password):
    one = doorman(users=users, general={"pg_hba": {"content": MD5_RULES}})
    raw = one.raw(login=False)
    seen = raw.login(user=user, password=password)
    assert seen[-1].code == "28P01"
    assert seen[-1].fields["S"] == "FATAL"
    assert raw.at_end()


def test_an_unknown_user_looks_like_a_wrong_password(doorman, users):
    """Same messages, same text, about the same time."""
    one = doorman(users=users[:1], general={"pg_hba": {"content": SCRAM_RULES}})

    def attempt(user):
        begin = time.monotonic()
        seen = one.raw(login=False).login(user=user, password="wrong")
        told = {k: v.replace(user, "USER") for k, v in seen[-1].fields.items()}
        steps = [(m.kind, m.body[:4]) for m in seen[:-1]]
        iterations = seen[1].body.split(b",i=")[1]
        return (steps, told, iterations), time.monotonic() - begin

    known, known_times = zip(*[attempt("scram") for _ in range(9)])
    unknown, unknown_times = zip(*[attempt("nobody") for _ in range(9)])
    assert known[0] == unknown[0]
    # The shortest: what the machine has to do besides makes the others longer.
    assert abs(min(known_times) - min(unknown_times)) < 0.02


def test_the_mock_salt_is_the_same_every_time(doorman, users):
    """A salt that changes tells that there is no such user."""
    one = doorman(users=users[:1], general={"pg_hba": {"content": SCRAM_RULES}})

    def salt(user):
        seen = one.raw(login=False).login(user=user, password="wrong")
        return next(m.body[4:].split(b",")[1] for m in seen if m.kind == "R" and m.body[3] == 11)

    assert salt("nobody") == salt("nobody") != salt("somebody")


def test_an_unknown_database_is_told(doorman):
    seen = doorman().raw(login=False).login(database="nowhere")
    assert error(seen).fields["S"] == "FATAL"
    assert error(seen).code in ("3D000", "28P01")


def test_no_rule_no_entry(doorman):
    one = doorman(general={"pg_hba": {"content": "host second app 127.0.0.1/32 trust\n"}})
    seen = one.raw(login=False).login()
    assert error(seen).code == "28000"


def test_a_reject_rule_wins_over_a_later_one(doorman):
    one = doorman(general={"pg_hba": {"content": "host all app 127.0.0.1/32 reject\nhost all all all trust\n"}})
    assert error(one.raw(login=False).login()).code == "28000"


@pytest.mark.parametrize("answer", [
    b"", b"\0", b"no nul", text("SCRAM-SHA-256"), text("SCRAM-SHA-256") + struct.pack("!i", -1),
    text("SCRAM-SHA-256") + struct.pack("!i", 1 << 30), text("SCRAM-SHA-1") + struct.pack("!i", 3) + b"n,,",
    text("SCRAM-SHA-256") + struct.pack("!i", 9) + b"n,,n=,r=x", text("SCRAM-SHA-256") + struct.pack("!i", 3) + b"\xff\xfe,",
    text("SCRAM-SHA-256-PLUS") + struct.pack("!i", 30) + b"p=tls-server-end-point,,n=,r=x",
], ids=range(10))
def test_a_scram_answer_that_makes_no_sense_is_refused(doorman, users, answer):
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}})
    raw = one.raw(login=False)
    raw.startup(user="scram", database="shop")
    assert raw.read().kind == "R"
    raw.send(message(b"p", answer))
    last = raw.read_until("EZR")[-1:]
    if last and last[0].kind == "R":
        raw.send(message(b"p", b"nonsense"))
        last = raw.read_until("E")[-1:]
    assert last and last[0].kind == "E" and last[0].code in ("28P01", "08P01")
    assert one.connect(user="scram", password="scram-secret").execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("first, second", [(4, b""), (3, b""), (0, b""), (-1, b""), ((1 << 31) - 1, b"x")])
def test_a_password_message_of_impossible_length_is_refused(doorman, users, first, second):
    one = doorman(users=users, general={"pg_hba": {"content": MD5_RULES}})
    raw = one.raw(login=False)
    raw.startup(user="hashed", database="shop")
    assert raw.read().kind == "R"
    raw.send(b"p" + struct.pack("!i", first) + second)
    assert raw.at_end()


# To PostgreSQL

@pytest.mark.parametrize("user", ["scram", "hashed"])
def test_the_clients_own_proof_opens_the_server(doorman, users, user, mode):
    """Pass-through: the file has no password PostgreSQL could be told."""
    one = doorman(mode=mode, users=users, general={"pg_hba": {"content": MD5_RULES}})
    first = one.connect(user=user, password=f"{user}-secret")
    second = one.connect(user=user, password=f"{user}-secret")
    with first.transaction(), second.transaction():
        assert first.execute("select current_user").fetchone() == second.execute("select current_user").fetchone()
    assert len(one.pg.pids(user)) == 2


@pytest.mark.parametrize("server_user", ["app", "scram", "hashed", "clear"])
def test_a_server_user_of_its_own(doorman, server_user):
    one = doorman(user={"server_username": server_user, "server_password": f"{server_user}-secret"})
    assert one.connect().execute("select current_user").fetchone() == (server_user,)


def test_a_wrong_server_password_is_told_to_the_client(doorman):
    one = doorman(user={"server_username": "scram", "server_password": "wrong"}, general={"query_wait_timeout": "2s"})
    raw = one.raw(login=False)
    seen = raw.login()
    if raw.status == "I":
        seen = raw.ask(query("select 1"))
    told = error(seen)
    assert (told.code, told.fields["S"]) == ("28P01", "FATAL")
    assert "wrong" not in told.text and "pooler's own login" in told.text


# What strangers learn

def server_first(one, user: str) -> str:
    """What SCRAM shows of a user's verifier."""
    raw = one.raw(login=False)
    raw.startup(user=user, database="shop")
    assert raw.read().kind == "R"
    raw.send(message(b"p", text("SCRAM-SHA-256") + struct.pack("!i", 32) + b"n,,n=,r=abcdefghijklmnopqrstuvwx"))
    return raw.read().body[4:].decode()


def test_strangers_have_the_iteration_counts_of_users(doorman):
    def stored(iterations: int, salt: bytes) -> str:
        key = base64.b64encode(b"k" * 32).decode()
        return f"SCRAM-SHA-256${iterations}:{base64.b64encode(salt).decode()}${key}:{key}"

    users = [{"username": "app", "password": stored(20_000, b"s" * 24), "pool_size": 1},
             {"username": "other", "password": stored(7_000, b"t" * 10), "pool_size": 1}]
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}})

    def seen(user: str) -> tuple[str, int]:
        _, salt, iterations = server_first(one, user).split(",")
        return iterations, len(salt)

    kinds = {seen("app"), seen("other")}
    assert kinds == {("i=20000", 34), ("i=7000", 18)}
    assert {seen(f"stranger{n}") for n in range(30)} == kinds
    assert len({seen("stranger0") for _ in range(3)}) == 1


def test_who_is_kept_out_by_the_rules_learns_no_names_of_databases(doorman):
    one = doorman(general={"pg_hba": {"content": "host shop other 127.0.0.1/32 trust\n"}})
    for database in ("shop", "nowhere"):
        seen = one.raw(login=False).login(database=database)
        assert error(seen).code == "28000", database


# Limits

def test_a_login_that_takes_too_long_is_cut(doorman, users):
    one = doorman(users=users, general={"pg_hba": {"content": SCRAM_RULES}, "client_login_timeout": "2s"})
    packet = startup_packet({"user": "scram", "database": "shop"})
    silent = one.raw(login=False)
    half = one.raw(login=False)
    half.send(packet[:10])
    asked = one.raw(login=False)
    asked.send(packet)
    assert asked.read().kind == "R"
    for raw in (silent, half, asked):
        assert raw.at_end()
    assert one.connect(user="scram", password="scram-secret").execute("select 1").fetchone() == (1,)


def test_the_login_timeout_ends_with_the_login(doorman):
    one = doorman(general={"client_login_timeout": "2s"})
    raw = one.raw()
    other = one.connect()
    other.execute("select pg_sleep(2.5)")
    assert raw.value("select 1") == "1"


def test_max_connections_is_exact_and_told(doorman):
    one = doorman(general={"max_connections": 3})
    inside = [one.raw() for _ in range(3)]
    for _ in range(20):
        over = one.raw(login=False)
        seen = over.login()
        assert error(seen).code == "53300"
        assert error(seen).text == "sorry, too many clients already"
        assert over.at_end()
    inside.pop().close()
    wait_until(lambda: Raw((one.host, one.port)).login()[-1].kind == "Z", what="the place is free again")


def test_the_refusal_is_readable_by_libpq_too(doorman):
    one = doorman(general={"max_connections": 1})
    one.raw()
    for sslmode in ("prefer", "disable"):
        with pytest.raises(psycopg.OperationalError, match="sorry, too many clients already"):
            one.connect(sslmode=sslmode)


def test_a_crowd_at_the_door_does_not_pass_the_limit(doorman, background):
    one = doorman(general={"max_connections": 20}, size=2)
    gate = threading.Barrier(60)

    def arrive():
        gate.wait()
        raw = Raw((one.host, one.port))
        return raw, raw.login()[-1]

    arrivals = [future.result() for future in [background(arrive) for _ in range(60)]]
    admitted = [raw for raw, last in arrivals if last.kind == "Z"]
    refused = [last for _, last in arrivals if last.kind == "E"]
    assert len(admitted) == 20
    assert {last.code for last in refused} == {"53300"}
    for raw, _ in arrivals:
        raw.close()


# Other doors

def test_unix_socket(doorman, tmp_path):
    directory = tmp_path / "socket"
    directory.mkdir()
    one = doorman(general={"unix_socket_dir": str(directory), "unix_socket_mode": "0660",
                           "pg_hba": {"content": "local all all trust\n"}})
    path = directory / f".s.PGSQL.{one.port}"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert one.connect(host=str(directory)).execute("select 1").fetchone() == (1,)
    assert error(one.raw(login=False).login()).code == "28000", "a local rule does not let TCP in"
    one.stop()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(doorman, tmp_path):
    one = doorman(general={"unix_socket_dir": str(tmp_path)})
    path = tmp_path / f".s.PGSQL.{one.port}"
    one.expected_status = None
    one.process.kill()
    one.wait()
    assert path.exists()
    one.start()
    one.expected_status = 0
    assert one.connect(host=str(tmp_path)).execute("select 1").fetchone() == (1,)


def test_several_addresses(doorman):
    one = doorman(general={"host": "127.0.0.1, ::1"})
    for address in ("127.0.0.1", "::1"):
        assert one.connect(host=address).execute("select 1").fetchone() == (1,)


def test_ipv6_rules_apply_to_ipv6(doorman):
    one = doorman(general={"host": "::1", "pg_hba": {"content": "host all all ::1/128 trust\n"}})
    assert one.connect(host="::1").execute("select 1").fetchone() == (1,)


# The console

LOOKER = {"stats_username": "looker", "stats_password": "may-look"}


@pytest.mark.parametrize("database", ["pgdoorman", "pgbouncer"])
@pytest.mark.parametrize("rules", ["", MD5_RULES, SCRAM_RULES + MD5_RULES, "host all all 127.0.0.1/32 trust\n",
                                   "host pgdoorman all all scram-sha-256\n"])
def test_the_console_asks_for_the_administrators_password(doorman, database, rules):
    """Whatever the rules say of applications; `trust` for them is not trust in an administrator."""
    one = doorman(general={"pg_hba": {"content": rules}, **LOOKER})
    connection = one.connect(user="admin", password=ADMIN_PASSWORD, database=database)
    assert connection.execute("show version").fetchone()[0].startswith("PgDoorman")
    for user, password in [("admin", "wrong"), ("app", ADMIN_PASSWORD), ("nobody", ADMIN_PASSWORD), ("admin", ""),
                           ("looker", ADMIN_PASSWORD), ("app", "")]:
        with pytest.raises(psycopg.OperationalError):
            one.connect(user=user, password=password, database=database)


def test_the_console_speaks_scram(doorman):
    one = doorman(general=LOOKER)
    for user in ("admin", "looker", "stranger"):
        raw = one.raw(login=False)
        raw.startup(user=user, database="pgdoorman")
        assert raw.read().body == struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"


@pytest.mark.parametrize("form", ["scram", "md5"])
def test_the_consoles_password_may_be_what_postgresql_stores(doorman, pg, users, form):
    inner = hashlib.md5(b"secret" + b"admin").hexdigest()
    one = doorman(general={"admin_password": "md5" + inner if form == "md5" else pg.verifier("scram")})
    password = "secret" if form == "md5" else "scram-secret"
    assert one.connect(user="admin", password=password, database="pgdoorman").execute("show version").fetchone()
    with pytest.raises(psycopg.OperationalError):
        one.connect(user="admin", password="wrong", database="pgdoorman")


def test_who_may_look_may_do_nothing_else(doorman):
    one = doorman(general=LOOKER)
    console = one.connect(user="looker", password="may-look", database="pgbouncer", autocommit=True)
    for _ in range(2):
        assert console.execute("show pools").fetchall()
        assert console.execute("show config").fetchall()
        for command in ("pause", "resume", "reload", "shutdown", "upgrade", "reconnect", "set log_level = 'debug'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                console.execute(command)
        one.upgrade()
    assert one.connect().execute("select 1").fetchone() == (1,)


def test_a_rule_that_names_the_console_decides(doorman):
    one = doorman(general={"pg_hba": {"content": "host pgbouncer admin 127.0.0.1/32 trust\nhost shop all all trust\n"}})
    assert one.connect(user="admin", database="pgbouncer").execute("show version").fetchone()
    with pytest.raises(psycopg.OperationalError, match="password"):
        one.connect(user="app", database="pgbouncer")
    one.config["general"]["pg_hba"]["content"] = "host all all 127.0.0.1/32 reject\n"
    one.reload()

    def is_rejected():
        try:
            one.connect(user="admin", database="pgbouncer")
        except psycopg.OperationalError as refusal:
            return "pg_hba.conf rejects" in str(refusal)
        return False
    wait_until(is_rejected)
