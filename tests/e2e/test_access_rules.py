"""pg_hba and pg_ident: what the pooler reads there, with PostgreSQL's own parser as the judge, and who gets in."""

import os
import pwd
import random
import re
import subprocess

import psycopg
import pytest

from doorman import binary

FILES, LINES = 50, 60
KINDS = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"]
NAMES = ["all", '"all"', "shop", "app", "données", "sameuser", "samerole", "samegroup", "replication", "+team", '"+team"',
         '"a b"', '"a,b"', 'a"ll"', '""', '"say ""hi"""', "@names", "/^a", '"/^b,c"', "@", "+", "a+b", "ALL"]
ADDRESSES = ["all", '"all"', "samehost", "samenet", "10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "::1/128", "::/0", "2001:db8::/32",
             "10.0.0.0 255.0.0.0", "10.0.0.1 255.0.0.255", "::1 ffff::", "10.0.0.0 ffff::", "10.0.0.0/33", "::1/129", "10.0.0.0/",
             "10.0.0.0/x", "db.example.com", ".example.com", "host/8", "a,b", "10.0.0.0/8,11.0.0.0/8"]
METHODS = ["trust", "reject", "md5", "scram-sha-256", "password", "cert", "peer", "ident", "gss", "pam", "radius",
           "ldap", '"md5"', '"trust', "MD5", "none", "krb5", "md5,trust", ""]
OPTIONS = ["", "", "", "", "map=m", "map=", "clientcert=verify-ca", "clientcert=verify-full", "clientcert=1", "clientname=CN",
           "clientname=DN", "clientname=x", "verify-full", "pamservice=x", "pam_use_hostname=1", "ldapserver=x ldapprefix=y",
           "ldapserver=x", "ldapserver=x ldapbasedn=y", "ldapserver=x,ldapsuffix=y", "ldapserver=x ldapport=0 ldapprefix=y", "krb_realm=x",
           "include_realm=0", "radiusservers=127.0.0.1 radiussecrets=x", "radiusservers=127.0.0.1", "nothing=1", "compat_realm=1",
           "map=a map=b", "clientcert=verify-full,map=m"]


def line(dice: random.Random) -> str:
    """A line that may be right or wrong; a backslash may continue it."""
    def some(of: list[str]) -> str:
        text = dice.choice(of)
        while dice.random() < 0.25:
            text += dice.choice([",", ", ", ",\t", ",,"]) + dice.choice(of)
        return text

    if dice.random() < 0.05:
        return dice.choice(["", "# nothing", "  ", "host", "local all", "hosts all all all md5", "local,host all all md5",
                            '"host" all all all md5', "include a b", ",", "host all ,all all md5", "local all all #trust"])
    words = [dice.choice(KINDS), some(NAMES), some(NAMES)]
    if words[0] != "local" or dice.random() < 0.05:
        words.append(dice.choice(ADDRESSES if dice.random() < 0.5 else ADDRESSES[:13]))
    words += [dice.choice(METHODS if dice.random() < 0.5 else METHODS[:5]), dice.choice(OPTIONS if dice.random() < 0.4 else [""])]
    if dice.random() < 0.05:
        words.pop(dice.randrange(len(words)))
    blanks = [" ", "\t", "  ", "\\\n ", " \\\n"]
    text = "".join(word + dice.choices(blanks, [50, 5, 5, 2, 2])[0] for word in words)
    return text.rstrip(" \t\\\n") + dice.choice(["", "", " ", " # comment", "\r"])


@pytest.fixture
def tls(pg, authority, clients):
    """PostgreSQL and pooler offer TLS and know an authority, so that neither complains about hostssl."""
    own = authority.sign("localhost")
    pg.speak_tls(own.certificate, own.key, clients.certificate)
    yield {"tls_mode": "allow", "tls_certificate": str(own.certificate), "tls_private_key": str(own.key),
           "tls_ca_cert": str(clients.certificate)}
    pg.speak_tls()


def test_rules_are_read_as_postgresql_reads_them(pg, doorman, tls, tmp_path):
    """Thousands of lines: the same ones are wrong, and the others mean the same."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    file, judged = tmp_path / "pg_hba.conf", os.path.join(pg.data, "pg_hba.conf")
    with open(judged) as before:
        own_rules = before.read()
    names = "joe, \"jane doe\"\n# nobody\n+staff\n"
    (tmp_path / "names").write_text(names)
    with open(os.path.join(pg.data, "names"), "w") as same:
        same.write(names)
    os.chmod(same.name, 0o644)
    file.write_text("local all all trust\nhost all all all trust\n")
    one = doorman(general={**tls, "pg_hba": {"path": str(file)}, "pg_ident": {"content": "m x y\nb x y\n"}})
    wrong = right = 0
    try:
        for _ in range(FILES):
            # Without it a rule could shut the console.
            lines = ["host pgdoorman all all md5", *(line(dice) for _ in range(LINES))]
            bad = judge(pg, judged, lines)
            texts = dict(numbered(lines))
            differ = [(texts.get(number), bad.get(number)) for number in told(one, file, lines) ^ set(bad)]
            # An address alone is one address here; PostgreSQL wants a mask.
            differ = [(text, why) for text, why in differ if not (why or "").startswith("invalid IP mask")]
            assert not differ, "the same lines are wrong"
            good = [text for number, text in numbered(lines) if number not in bad]
            assert not judge(pg, judged, good)
            file.write_text("\n".join(good), newline="")
            one.console("reload")
            assert shown(one) == view(pg)
            wrong, right = wrong + len(bad), right + len(good)
    finally:
        with open(judged, "w") as rules:
            rules.write(own_rules)
    assert wrong > 500 and right > 500, (wrong, right)


def numbered(lines):
    number = 1
    for text in lines:
        yield number, text
        number += text.count("\n") + 1


def judge(pg, path, lines) -> dict[int, str]:
    """The wrong lines, by PostgreSQL."""
    with open(path, "w", newline="") as rules:
        rules.write("\n".join(lines))
    rows = pg.admin("select line_number, error from pg_hba_file_rules where error is not null or auth_method is null")
    # That GSSAPI is not built in is no fault of the line.
    return {row["line_number"]: row["error"] for row in rows if "not supported by this build" not in (row["error"] or "")}


def told(one, file, lines) -> set[int]:
    """The wrong lines, by the pooler."""
    before = file.read_bytes()
    file.write_text("\n".join(lines), newline="")
    done = subprocess.run([binary(), "-t", str(one.path)], capture_output=True, text=True)
    file.write_bytes(before)
    told = "\n".join(text for text in done.stderr.splitlines() if not text.startswith("warning: "))
    found = re.findall(rf"{re.escape(str(file))}:(\d+): general.pg_hba: ", told)
    assert found or done.returncode == 0, done.stderr
    return {int(number) for number in found}


def view(pg) -> list[tuple]:
    """The rules, by PostgreSQL."""
    rows = pg.admin("select line_number, type, array_to_string(database, ',') as database, "
                    "array_to_string(user_name, ',') as users, address, netmask, auth_method, options from pg_hba_file_rules")
    def of_method(row):
        """The options that the pooler has, without those of methods that are not built in."""
        kept = [one for one in row["options"] or [] if one.startswith(("map=", "clientcert=")) and one != "map="]
        return set() if row["auth_method"] in ("gss", "pam", "ldap", "radius") else set(kept)
    return [(row["line_number"], row["type"], row["database"].replace("samegroup", "samerole"), row["users"], row["address"] or "",
             row["netmask"] or "", row["auth_method"], of_method(row)) for row in rows]


def shown(one) -> list[tuple]:
    """The rules, by the pooler."""
    def options(row):
        kept = set(filter(None, row["options"].split(",")))
        return set() if row["auth_method"] in ("gss", "pam", "ldap", "radius") else kept
    return [(row["line_number"], row["type"], row["database"].replace("samegroup", "samerole"), row["user_name"], row["address"],
             row["netmask"], row["auth_method"], options(row)) for row in one.console("show hba")]


# Who gets in

RULES = """host all pgdoorman_auth 127.0.0.1/32 scram-sha-256
host second +outcasts 127.0.0.1/32 reject
host samerole all 127.0.0.1/32 scram-sha-256
host /^sec "/^far,|^root$" samehost scram-sha-256
host shop boss,+team_lead localhost scram-sha-256
host shop all 0.0.0.0 0.0.0.254 reject
host shop near 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapprefix=x
"""


@pytest.fixture
def members(pg):
    """`far` is a member of `outcasts` by `near`, which inherits nothing; `boss` is a superuser."""
    from test_found_users import manual_sql, PASSWORD
    pg.admin("set password_encryption = 'scram-sha-256'")
    pg.admin(manual_sql().replace("AND NOT rolsuper", ""))
    pg.admin("create role outcasts; create role team_lead; create role near login noinherit password 'x' in role outcasts;"
             "create role far login password 'x' in role near; create role boss login superuser password 'x';"
             "create role second login password 'x'; create role plain login password 'x'")
    yield {"query": "SELECT passwd FROM pgdoorman.get_auth($1)", "user": "pgdoorman_auth", "password": PASSWORD, "database": "postgres"}
    pg.terminate(*pg.pids(None))
    pg.admin("drop schema pgdoorman cascade; drop role pgdoorman_auth, far, near, outcasts, boss, second, plain, team_lead")


def outcome(host, port, user, database) -> str:
    """How a login ends: "in", or the error without its addresses."""
    try:
        with psycopg.connect(host=host, port=port, user=user, dbname=database, password="x", sslmode="disable"):
            return "in"
    except psycopg.OperationalError as error:
        return re.sub(r".*FATAL:\s*", "", str(error).strip().splitlines()[-1])


def everybody(host, port) -> dict:
    return {(user, database): outcome(host, port, user, database)
            for user in ("near", "far", "boss", "second", "plain") for database in ("shop", "second")}


def test_members_of_roles_get_in_as_at_postgresql(pg, doorman, members):
    rules = RULES[:RULES.index("host /^sec")] + RULES[RULES.index("host shop boss"):]
    one = doorman(general={"pg_hba": {"content": rules}}, pool={"auth_query": members},
                  pools={"second": {"server_host": pg.host, "server_port": pg.port, "auth_query": members}})
    with pg.rules(rules.split("host shop near")[0]):
        direct = everybody(pg.host, pg.port)
        assert everybody(one.host, one.port) == direct
    assert direct["far", "second"].startswith("pg_hba.conf rejects") and direct["second", "second"] == "in"
    assert direct["boss", "shop"] == "in" and direct["plain", "second"].startswith("no pg_hba.conf entry")
    one.upgrade()
    assert outcome(one.host, one.port, "plain", "shop").startswith("pg_hba.conf rejects")
    pg.admin("grant team_lead to plain")
    assert outcome(one.host, one.port, "plain", "shop").startswith("pg_hba.conf rejects"), "an answer is believed for a while"
    one.config["general"]["pg_hba"]["content"] += "local all all reject\n"
    one.reload()
    one.wait_log("Config changed, reloading")
    with pg.rules("host all all 127.0.0.1/32 scram-sha-256\n"):
        assert outcome(one.host, one.port, "plain", "shop") == "in"
        assert outcome(one.host, one.port, "near", "shop").startswith("pg_hba.conf rejects")


def test_a_method_that_is_not_built_in_refuses_and_is_told(doorman):
    rules = "host shop app 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapprefix=x\nhost all all all trust\n"
    one = doorman(general={"pg_hba": {"content": rules}})
    assert outcome(one.host, one.port, "app", "shop").startswith("pg_hba.conf rejects connection")
    one.wait_log(re.escape("method ldap is not built in (pg_hba rule on line 1)"))


def test_expressions_and_names_of_hosts(doorman):
    rules = 'host /^sh,/x$ /^(app|web)$ samehost trust\nhost second app localhost trust\n'
    one = doorman(general={"pg_hba": {"content": rules}})
    assert outcome(one.host, one.port, "app", "shop") == "in"
    assert outcome(one.host, one.port, "scram", "shop").startswith("no pg_hba.conf entry")
    assert outcome(one.host, one.port, "app", "second").startswith("No connection pool configured"), "the rule matches"


def test_without_an_answer_about_members_nobody_gets_in(pg, doorman):
    """Nor is the line passed over. Without auth_query a pool of the database is asked."""
    rules = "host all +team 127.0.0.1/32 trust\nhost all all all trust\n"
    one = doorman(general={"pg_hba": {"content": rules}, "connect_timeout": "1s", "query_wait_timeout": "1s"})
    assert outcome(one.host, one.port, "app", "shop") == "in"
    pg.stop()
    try:
        one.config["general"]["pg_hba"]["content"] += "local all all reject\n"
        one.reload()
        one.wait_log("Config changed, reloading")
        assert outcome(one.host, one.port, "app", "shop") == "the access rules cannot be checked at the moment; try again later"
        one.wait_log('the roles of "app" are not known')
    finally:
        pg.start_again()


def test_a_unix_socket_knows_its_user(doorman, tmp_path):
    me = pwd.getpwuid(os.getuid()).pw_name
    one = doorman(general={"unix_socket_dir": str(tmp_path), "pg_ident": {"content": f"m {me} app\nm /^(.*)$ \\1x\n"},
                           "pg_hba": {"content": "local shop app peer map=m\nlocal all all peer\n"}})
    assert outcome(str(tmp_path), one.port, "app", "shop") == "in"
    assert outcome(str(tmp_path), one.port, "app", "second") == 'Peer authentication failed for user "app"'
    one.wait_log("do not match")
    one.upgrade()
    assert outcome(str(tmp_path), one.port, "app", "shop") == "in"


def test_a_wrong_line_is_told_with_its_place_and_changes_nothing(doorman, tmp_path):
    (tmp_path / "more.conf").write_text("host shop all all trust\n")
    file = tmp_path / "pg_hba.conf"
    file.write_text("include more.conf\n")
    one = doorman(general={"pg_hba": {"path": str(file)}})
    assert outcome(one.host, one.port, "app", "shop") == "in"
    (tmp_path / "more.conf").write_text("\nhost shop all all trsut\n")
    one.reload()
    one.wait_log(re.escape(f"{tmp_path}/more.conf:2: general.pg_hba: invalid authentication method"))
    assert outcome(one.host, one.port, "app", "shop") == "in"
    done = subprocess.run([binary(), "-t", str(one.path)], capture_output=True, text=True)
    assert done.returncode != 0 and f"{tmp_path}/more.conf:2: general.pg_hba" in done.stderr
    (tmp_path / "more.conf").write_text("host shop all all reject\nhost a,b all all md5\n")
    one.reload()
    one.wait_log("Config changed, reloading")
    assert outcome(one.host, one.port, "app", "shop").startswith("pg_hba.conf rejects")
    done = subprocess.run([binary(), "-t", str(one.path)], capture_output=True, text=True)
    assert f"{tmp_path}/more.conf:2: general.pg_hba: the async pg_doorman passes over this line" in done.stderr
    assert "async" not in one.log()
