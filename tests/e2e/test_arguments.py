"""The command line: options, exit statuses, and what is said about a configuration."""

import json
import os
import signal
import socket
import subprocess

import pytest

from doorman import ADMIN_PASSWORD, TRUST, Doorman, binary, listening
from postgres import free_port
from wait import wait_until
from wire import query

SECRETS = ["top-secret-admin", "top-secret-server"]

GOOD = """\
[general]
host = "127.0.0.1"
port = 16432
admin_username = "admin"
admin_password = "top-secret-admin"

[pools.shop]
server_host = "127.0.0.1"
server_port = 5432

[[pools.shop.users]]
username = "app"
password = "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
pool_size = 4
server_username = "app"
server_password = "top-secret-server"
"""


def run(*arguments, **options):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=20, **options)


@pytest.fixture
def config(tmp_path):
    """Writes a configuration and returns its path."""
    def write(text=GOOD, name="pooler.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path
    return write


def line_of(text, part):
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option):
    done = run(option)
    assert done.returncode == 0
    name, version = done.stdout.split()
    assert name == "pg_doorman"
    assert version[0].isdigit()


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option(option):
    done = run(option)
    assert done.returncode == 0
    for word in ["--log-level", "--log-format", "--no-color", "--daemon", "--test-config", "CONFIG_FILE"]:
        assert word in done.stdout


def test_usage_error_exits_2():
    done = run("--no-such-option")
    assert done.returncode == 2
    assert "no-such-option" in done.stderr


@pytest.mark.parametrize("option", ["-t", "--test-config"])
def test_a_good_file_passes(config, option):
    path = config()
    done = run(option, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"pg_doorman: the configuration file {path} syntax is ok",
        f"pg_doorman: configuration file {path} test is successful",
    ]


@pytest.mark.parametrize("line, code, why", [
    ('host = "192.0.2.9"', 78, "could not listen on 192.0.2.9:16432"),
    ('host = "no.such.host.invalid"', 78, 'could not resolve "no.such.host.invalid"'),
    ('unix_socket_dir = "/nonexistent"', 71, "could not listen on /nonexistent/.s.PGSQL.16432"),
    (f'unix_socket_dir = "/tmp/{"x" * 100}"', 71, "could not listen on /tmp/xxx"),
    ('log_file = "/nonexistent/a/log"', 71, "could not open log file /nonexistent/a/log"),
])
def test_a_test_fails_where_the_start_would(config, line, code, why):
    text = GOOD.replace('host = "127.0.0.1"', line, 1) if line.startswith("host") else GOOD.replace(
        "admin_username", f"{line}\nadmin_username", 1)
    port = str(free_port())
    path, why = config(text.replace("16432", port)), why.replace("16432", port)
    for arguments in (["-t", path], [path]):
        done = run(*arguments)
        assert (done.returncode, why in done.stderr) == (code, True), (arguments, done.stderr)
        assert "successful" not in done.stdout


def test_a_test_fails_where_a_file_is_in_the_way_of_the_socket(config, tmp_path):
    (tmp_path / ".s.PGSQL.16432").touch()
    done = run("-t", config(GOOD.replace("admin_username", f'unix_socket_dir = "{tmp_path}"\nadmin_username')))
    assert done.returncode == 71 and "not a socket" in done.stderr


def test_a_test_of_a_daemon_checks_its_pid_file(config):
    done = run("-t", "-d", "--pid-file", "/nonexistent/pid", config())
    assert done.returncode == 71 and "/nonexistent/pid" in done.stderr


def test_a_test_takes_nothing(doorman, tmp_path):
    """Also while an instance holds everything."""
    one = doorman(general={"unix_socket_dir": str(tmp_path)})
    for _ in range(3):
        done = run("-t", one.path)
        assert done.returncode == 0 and "port" not in done.stderr, done.stderr
    assert one.serves()
    with one.connect(host=str(tmp_path)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_port_that_another_process_has_is_told_by_a_test(config):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("-t", config(GOOD.replace("16432", str(port))))
    assert done.returncode == 0 and f"another process has the port of 127.0.0.1:{port}" in done.stderr


def test_an_address_that_is_gone_does_not_hinder_an_upgrade(doorman):
    """The listening sockets are passed on."""
    one = doorman()
    one.config["general"]["host"] = "127.0.0.1,192.0.2.9"
    one.write()
    assert run("-t", one.path).returncode == 78
    one.upgrade()
    assert one.serves()


def test_a_pool_without_users_is_told(config):
    text = GOOD[:GOOD.index("[[pools.shop.users]]")]
    done = run("-t", config(text))
    assert done.returncode == 0 and "pools.shop: has no users and no auth_query, so nobody can log in" in done.stderr


def test_settings_without_effect_are_counted(config):
    said = run("-t", config(GOOD.replace("admin_username", "worker_threads = 4\nadmin_username"))).stdout
    assert said.splitlines()[-1] == "pg_doorman: 1 setting has no effect here"
    said = run("-t", config(GOOD.replace("admin_username", "worker_threads = 4\ncolour = 1\nadmin_username"))).stdout
    assert said.splitlines()[-1] == "pg_doorman: 2 settings have no effect here"


def test_a_missing_file_exits_78():
    for arguments in (["-t", "/nonexistent/pooler.toml"], ["/nonexistent/pooler.toml"]):
        done = run(*arguments)
        assert done.returncode == 78
        assert "/nonexistent/pooler.toml" in done.stderr
        assert "No such file" in done.stderr


def test_the_default_file_is_in_the_working_directory(config, tmp_path):
    config(name="pg_doorman.toml")
    assert run("-t", cwd=tmp_path).returncode == 0


def test_the_file_may_be_named_by_the_environment(config):
    path = config()
    assert run("-t", env={**os.environ, "CONFIG_FILE": str(path)}).returncode == 0


def test_a_typo_is_told_with_line_and_nearest_name_and_does_not_stop_the_run(config):
    text = GOOD.replace('admin_username', 'max_conections = 10\nadmin_username')
    path = config(text)
    done = run("-t", path)
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    assert f"{path}:{line_of(text, 'max_conections')}" in said
    assert "max_conections" in said
    assert "max_connections" in said


@pytest.mark.parametrize("table, typo, meant", [
    ("[pools.shop]", "pool_mod = 'session'", "pool_mode"),
    ("[[pools.shop.users]]", "min_pool_siz = 1", "min_pool_size"),
])
def test_a_typo_in_any_table_is_told(config, table, typo, meant):
    text = GOOD.replace(table, f"{table}\n{typo}")
    path = config(text)
    done = run("-t", path)
    said = done.stderr + done.stdout
    assert done.returncode == 0, said
    assert f"{path}:{line_of(text, typo)}" in said
    assert meant in said


def test_keys_of_the_async_implementation_are_accepted(config):
    path = config(GOOD.replace("admin_username", "worker_threads = 4\nadmin_username"))
    assert run("-t", path).returncode == 0


@pytest.mark.parametrize("good, bad", [
    ("port = 16432", 'port = "many"'),
    ("port = 16432", "port = 70000"),
    ("pool_size = 4", 'pool_size = "four"'),
    ("pool_size = 4", "pool_size = -4"),
    ("server_port = 5432", 'server_port = 5432\npool_mode = "statement"'),
    ('admin_username = "admin"', 'admin_username = "admin"\nconnect_timeout = "3 parsecs"'),
    ('admin_username = "admin"', 'admin_username = "admin"\nquery_wait_timeout = -1'),
    ('admin_password = "top-secret-admin"', 'admin_password = ["top-secret-admin"]'),
    ('server_password = "top-secret-server"', 'server_password = { is = "top-secret-server" }'),
])
def test_a_wrong_value_is_an_error_with_line_and_key(config, good, bad):
    text = GOOD.replace(good, bad, 1)
    assert text != GOOD
    path = config(text)
    last = bad.splitlines()[-1]
    for arguments in (["-t", path], [path]):
        done = run(*arguments)
        assert done.returncode == 78
        assert f"{path}:{line_of(text, last)}" in done.stderr
        assert last.split(" = ")[0] in done.stderr
        for secret in SECRETS:
            assert secret not in done.stderr + done.stdout


@pytest.mark.parametrize("broken", [
    GOOD.replace("[pools.shop]", "[pools.shop"),
    GOOD.replace('"top-secret-admin"', '"top-secret-admin'),
    GOOD.replace('password = "top-secret-server"', 'password = top-secret-server'),
    "\0\1\2",
    "[general]\n",
    "",
])
def test_what_is_not_toml_or_not_complete_exits_78_and_tells_no_secret(config, broken):
    done = run("-t", config(broken))
    assert done.returncode == 78
    assert done.stderr.strip()
    for secret in SECRETS:
        assert secret not in done.stderr + done.stdout


def test_users_may_be_numbered_tables(config):
    assert run("-t", config(GOOD.replace("[[pools.shop.users]]", "[pools.shop.users.0]"))).returncode == 0


def test_two_users_of_one_name_are_refused(config):
    second = '\n[[pools.shop.users]]\nusername = "app"\npassword = ""\npool_size = 1\n'
    done = run("-t", config(GOOD + second))
    assert done.returncode == 78
    assert "duplicate" in done.stderr


def test_includes_are_merged_and_the_later_wins(config, tmp_path):
    config('[general]\nport = 17000\n', "one.toml")
    config('[general]\nport = "wrong"\n', "two.toml")
    main = config(GOOD + '\n[include]\nfiles = ["one.toml"]\n')
    assert run("-t", main, cwd=tmp_path).returncode == 0
    main = config(GOOD + '\n[include]\nfiles = ["one.toml", "two.toml"]\n')
    done = run("-t", main, cwd=tmp_path)
    assert done.returncode == 78
    assert "two.toml:2" in done.stderr


@pytest.mark.parametrize("value", ['"5s"', "5000", '"5000"', '"5000ms"', '"1M"', '"2h"', '"1d"'])
def test_durations_take_units(config, value):
    text = GOOD.replace("admin_username", f"query_wait_timeout = {value}\nadmin_username")
    text = text.replace("server_port = 5432", f"server_port = 5432\nidle_timeout = {value}")
    assert run("-t", config(text)).returncode == 0


@pytest.mark.parametrize("value", ['"1MB"', "1048576", '"512k"', '"1G"'])
def test_sizes_take_units(config, value):
    assert run("-t", config(GOOD.replace("admin_username", f"max_memory_usage = {value}\nadmin_username"))).returncode == 0


def test_a_port_in_use_is_an_error(config):
    """In use by another program."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(config(GOOD.replace("16432", str(port))))
    assert done.returncode not in (0, 2)
    assert str(port) in done.stderr


def test_two_poolers_do_not_share_a_port(doorman):
    one = doorman()
    done = run(one.path)
    assert done.returncode == 78
    assert str(one.port) in done.stderr and "another process has the port" in done.stderr
    assert one.serves()


def test_two_poolers_share_a_port_if_both_are_told_to(doorman):
    one = doorman(general={"so_reuseport": True})
    other = doorman(general={"so_reuseport": True, "port": one.port})
    wait_until(lambda: "Accepting connections" in other.log())
    one.upgrade()
    other.upgrade()


@pytest.mark.parametrize("is_parent", [True, False])
def test_a_port_is_shared_with_the_process_that_has_started_it(doorman, is_parent):
    """As the asynchronous pg_doorman starts its successor; whoever else has the port keeps it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        held.listen()
        general = {"port": held.getsockname()[1]}
        if is_parent:
            one = doorman(general=general)
            wait_until(lambda: "Accepting connections" in one.log())
            held.close()
            assert one.serves()
            assert run(one.path).returncode == 78
        else:
            one = doorman()
            one.config["general"] |= general
            one.write()
            shell = subprocess.run(["/bin/sh", "-c", f'"{binary()}" "{one.path}"; exit $?'], capture_output=True)
            assert shell.returncode == 78


def test_structured_log_is_json_lines(doorman):
    one = doorman("-F", "structured")
    one.serves()
    lines = [line for line in one.log().splitlines() if line.strip()]
    assert lines
    for line in lines:
        entry = json.loads(line)
        assert entry["level"] and entry["message"] and entry["timestamp"]


def test_log_level_is_heeded(doorman):
    one = doorman("-l", "error")
    one.serves()
    assert one.log() == ""


def test_no_colours_in_a_file(doorman):
    one = doorman("-n")
    one.serves()
    assert "\x1b[" not in one.log()


def test_secrets_are_not_logged(doorman):
    one = doorman("-l", "trace", user={"server_username": "app", "server_password": "top-secret-server"})
    one.serves()
    one.console("show config")
    for secret in [ADMIN_PASSWORD, "top-secret-server", one.pg.verifier("app")]:
        assert secret not in one.log()
        assert secret not in str(one.console("show config"))


def test_daemon(pg, tmp_path):
    """The parent exits 0 only when the pid file is written; the daemon serves and ends at SIGTERM."""
    pid_file = tmp_path / "doorman.pid"
    one = Doorman(pg, tmp_path, general={"daemon_pid_file": str(pid_file)})
    one.write()
    done = run("-d", one.path)
    assert done.returncode == 0, done.stderr
    pid = int(pid_file.read_text())
    try:
        wait_until(lambda: listening(one.port), what="the daemon listens")
        assert one.serves()
        assert os.getsid(pid) == os.getpgid(pid) != os.getsid(0)
    finally:
        os.kill(pid, signal.SIGTERM)
        one.disconnect_all()
        wait_until(lambda: not listening(one.port), what="the daemon is gone")
    wait_until(lambda: gone(pid), what="the daemon has ended")


def gone(pid):
    """No such process, or one that nobody has collected yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_daemon_that_cannot_start_says_so(pg, tmp_path, doorman):
    one = Doorman(pg, tmp_path, general={"daemon_pid_file": "/nonexistent/doorman.pid"})
    one.write()
    done = run("-d", one.path)
    assert done.returncode not in (0, None)
    assert "/nonexistent/doorman.pid" in done.stderr
    assert not listening(one.port)


@pytest.mark.parametrize("mode, told", [(0o600, ""), (0o640, ""), (0o644, "read the passwords"), (0o662, "change it")])
def test_a_file_that_others_can_read_or_change_is_told(config, mode, told):
    path = config(GOOD)
    os.chmod(path, mode)
    done = run("-t", path)
    assert done.returncode == 0
    assert (told in done.stderr) if told else "every user" not in done.stderr


def test_root_is_told_to_be_somebody_else(config, doorman):
    told = "run the pooler as a user of its own" in run("-t", config(GOOD)).stderr
    assert told == (os.geteuid() == 0)
    assert ("running as root" in doorman().log()) == (os.geteuid() == 0)


def test_the_hba_file_is_read_and_a_bad_address_refused(config, tmp_path):
    hba = tmp_path / "hba.conf"
    hba.write_text(TRUST)
    good = GOOD.replace("admin_username", f'pg_hba = {{ path = "{hba}" }}\nadmin_username')
    assert run("-t", config(good)).returncode == 0
    hba.write_text("host all all 10.0.0.0/33 md5\n")
    done = run("-t", config(good))
    assert done.returncode == 78
    assert f"{hba}:1" in done.stderr and "10.0.0.0/33" in done.stderr
    # A name is one of a host, as PostgreSQL reads it.
    hba.write_text("host all all not-an-address md5\n")
    assert run("-t", config(good)).returncode == 0
    hba.write_bytes("# Für die Anwendung\n".encode("latin-1") + TRUST.encode())
    assert run("-t", config(good)).returncode == 0
    # Names are bytes, as they are for PostgreSQL.
    hba.write_bytes("host all jörg all md5\n".encode("latin-1"))
    assert run("-t", config(good)).returncode == 0


def test_it_starts_while_postgresql_is_down(doorman):
    """The pooler does not need its server to start, and says what is wrong to the client."""
    one = doorman(pool={"server_port": free_port()}, general={"query_wait_timeout": "1s", "connect_timeout": "1s"})
    raw = one.raw(login=False)
    seen = raw.login()
    if raw.status == "I":
        seen = raw.ask(query("select 1"))
    assert seen[-1].kind in "EZ"
    assert any(m.kind == "E" for m in seen)
