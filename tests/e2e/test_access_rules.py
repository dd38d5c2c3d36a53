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
