//! The statements that sequences are made of.
//!
//! `{n}` stands for a number of its own, `{c}` for the client's number (whose schema is `c{c}`). Clients change
//! nothing that other clients read, so that what each is told does not depend on the others.

use crate::excluded;
use crate::rng::Rng;

/// Texts of one kind, how often the kind is chosen, and whether it changes what is stored.
pub struct Kind {
    weight: usize,
    /// Whether it changes what is stored.
    pub durable: bool,
    texts: &'static [&'static str],
}

const READS: Kind = Kind {
    weight: 20,
    durable: false,
    texts: &[
        "select {n}",
        "select {n}",
        "select a, b from t order by 1, 2",
        "select * from z",
        "select * from v order by 1",
        "select {n}, generate_series(1, 3)",
        "select generate_series(1, 3000), {n}",
        "select current_user, session_user",
        "select {n}; select {n} + 1",
        "",
        ";",
        "/* nothing */",
        "select * from m",
        "select {n} as \"discard\"",
        "select a from discarded order by 1",
        "table k",
        "select regexp_replace(current_schemas(false)::text, 'pg_temp_[0-9]+', 'pg_temp')",
        "select * from secret",
        "select date '2024-02-03', timestamptz '2024-02-03 04:05:06+00', interval '1 day 2 hours'",
        "select * from tt",
        "select 0.1::float8 * 3, '\\x00ff'::bytea",
        "select 'now' = $1",
        "select $1::int, {n}",
        "select a from t where a = $1",
        "select $1::text || 'x'",
        "select a, $1::int from z",
        "select $1::date",
        "explain (costs off) select * from z",
        "values ({n})",
        "select repeat('x', 9000), {n}",
        "-- default\nselect {n}",
    ],
};

const ERRORS: Kind = Kind {
    weight: 8,
    durable: false,
    texts: &[
        "selec {n}",
        "selec {n}",
        "select 1/0",
        "select * from missing",
        "select 'x'::int",
        "select {n}; select 1/0; select 2",
        "select {n} where $1",
        "select 'none'::mood",
        "select 1/(a-2) from t order by a",
    ],
};

const WRITES: Kind = Kind {
    weight: 10,
    durable: true,
    texts: &[
        "insert into t values ({n}, 'row')",
        "insert into t values ($1, 'p')",
        "insert into t values ($1, $2) returning a, b",
        "update t set b = 'u{n}' where a = 1",
        "delete from t where a > 3",
        "insert into k (v) values ('{n}')",
        "insert into k (v) values ('same') returning id",
        "insert into trig values (1)",
        "truncate discarded",
        "insert into z values (9); select * from z",
        "insert into m values ('ok')",
        "insert into n values ({n})",
    ],
};

const TRANSACTIONS: Kind = Kind {
    weight: 16,
    durable: false,
    texts: &[
        "begin",
        "begin",
        "begin;",
        "begin;",
        "start transaction",
        "begin isolation level serializable",
        "begin read only",
        "savepoint s",
        "savepoint s",
        "rollback to s",
        "release s",
        "begin; select {n}",
        "begin; select {n}; commit",
        "set transaction isolation level repeatable read",
        "begin; selec",
        "begin; select 1/0",
        "rollback",
        "rollback; select {n}",
        "prepare transaction 'x'",
        "begin; rollback; begin",
    ],
};

const COMMITS: Kind = Kind {
    weight: 8,
    durable: true,
    texts: &[
        "commit",
        "commit",
        "end",
        "rollback",
        "abort",
        "commit and chain",
        "rollback and chain",
        "select {n}; commit; select {n}",
        "commit; begin",
        "insert into t values ({n}, 'x'); commit",
    ],
};

const COPIES: Kind = Kind {
    weight: 9,
    durable: true,
    texts: &[
        "copy t from stdin",
        "copy t from stdin",
        "copy v from stdin",
        "copy trig from stdin",
        "copy missing from stdin",
        "copy discarded from stdin",
        "copy t from stdin (format csv)",
        "select {n}; copy t from stdin; select {n}",
        "copy t to stdout",
        "copy t to stdout",
        "copy (select generate_series(1, 3000)) to stdout",
        "copy (select 1/(a-2) from t order by a) to stdout",
        "set local search_path = c{c}; copy t from stdin",
        "copy t from stdin; copy t to stdout",
        "copy discarded to stdout",
        "begin; copy t from stdin",
    ],
};

const DEFINITIONS: Kind = Kind {
    weight: 4,
    durable: true,
    texts: &[
        "create table n (a int)",
        "drop table if exists n",
        "alter table t add column c int",
        "alter table t drop column if exists c",
        "alter table z alter a type text",
        "alter table z alter a type int4 using a::int4",
        "create or replace view v as select a, count(*) as n from t group by a",
        "alter type mood add value if not exists 'none'",
        "drop type mood cascade",
        "create type mood as enum ('sad', 'ok', 'none')",
        "alter table m add column at mood",
        "create index on t (a)",
        "create table secret (a int)",
        "drop table secret",
        "comment on table t is '{n}'",
        "create table n as select {n} as a",
    ],
};

const SESSIONS: Kind = Kind {
    weight: 9,
    durable: false,
    texts: &[
        "create temp table tt (a int)",
        "create temp table tt (a int) on commit drop",
        "select pg_advisory_lock(10{c})",
        "select pg_try_advisory_lock_shared(20{c})",
        "select pg_advisory_unlock(10{c})",
        "select pg_advisory_xact_lock(30{c})",
        "listen ch{c}",
        "notify ch{c}, '{n}'",
        "unlisten *",
        "prepare q0 as select {n}",
        "prepare s0 as select {n}",
        "prepare q1(int) as select $1, {n}",
        "deallocate q0",
        "deallocate s0",
        "deallocate s1",
        "deallocate all",
        "deallocate prepare s2",
        "declare cur cursor for select generate_series(1, 5)",
        "declare cur cursor with hold for select generate_series(1, 3)",
        "fetch 2 from cur",
        "close cur",
        "close all",
        "do $$ begin perform {n}; end $$",
        "do $$ begin raise notice 'hello {n}'; end $$",
        "call proc({n})",
        "do $$ begin perform 1/0; end $$",
        "select pg_notify('ch{c}', '{n}')",
    ],
};

const EXECUTES: Kind = Kind {
    weight: 3,
    durable: false,
    texts: &[
        "execute q0",
        "execute s0",
        "execute s1",
        "execute s0(1)",
        "execute q1({n})",
        "explain execute q0",
        "begin; execute q0",
    ],
};

const ROLES: Kind = Kind {
    weight: 3,
    durable: false,
    texts: &[
        "set role team",
        "set local role team",
        "reset role",
        "set role none",
        "set session authorization app",
        "set session authorization default",
        "select set_config('role', 'team', false)",
        "select set_config('role', 'team', true)",
        "update pg_settings set setting = 'team' where name = 'role'",
    ],
};

const RESETS: Kind = Kind {
    weight: 4,
    durable: false,
    texts: &[
        "reset all",
        "discard all",
        "discard temp",
        "discard plans",
        "discard sequences",
        "do $$ begin reset all; end $$",
        "set session characteristics as transaction isolation level serializable",
        "set session characteristics as transaction isolation level read committed",
        "set session characteristics as transaction read write",
        "set time zone local",
        "set time zone default",
        "set time zone 'Asia/Tokyo'",
        "set names 'LATIN1'",
        "set names default",
        "select setter('1')",
    ],
};

const KINDS: [&Kind; 11] = [
    &READS,
    &ERRORS,
    &WRITES,
    &TRANSACTIONS,
    &COMMITS,
    &COPIES,
    &DEFINITIONS,
    &SESSIONS,
    &EXECUTES,
    &ROLES,
    &RESETS,
];

/// How often a SET of some form is chosen, in the scale of the weights.
const SETS: usize = 12;

/// Settings and values for them.
const SETTINGS: &[(&str, &[&str])] = &[
    (
        "timezone",
        &["UTC", "Asia/Tokyo", "America/New_York", "nowhere"],
    ),
    (
        "datestyle",
        &["ISO, MDY", "German", "Postgres, DMY", "iso, mdy"],
    ),
    ("intervalstyle", &["postgres", "iso_8601"]),
    ("application_name", &["one", "two"]),
    (
        "search_path",
        &["c{c}", "c{c}, public", "public", "c{c}", "pg_temp, c{c}"],
    ),
    ("client_encoding", &["UTF8", "LATIN1"]),
    (
        "default_transaction_isolation",
        &["serializable", "read committed"],
    ),
    ("default_transaction_read_only", &["on", "off"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("work_mem", &["1MB", "2MB"]),
    ("statement_timeout", &["100s", "0", "-5"]),
    ("extra_float_digits", &["0", "2"]),
    ("bytea_output", &["escape", "hex"]),
    ("enable_seqscan", &["off"]),
    ("lock_timeout", &["50s"]),
    ("jit", &["on", "off"]),
];

/// What a sequence prefers, so that its clients meet: a few texts and a few settings.
pub struct Taste {
    texts: Vec<&'static str>,
    settings: Vec<usize>,
}

impl Taste {
    /// Some taste.
    pub fn new(rng: &mut Rng) -> Self {
        let mut texts = Vec::new();
        for _ in 0..3 {
            let kind = if rng.percent(75) { &READS } else { &WRITES };
            texts.push(rng_text(rng, kind));
        }
        let settings = (0..2).map(|_| rng.below(SETTINGS.len())).collect();
        Self { texts, settings }
    }

    fn setting(&self, rng: &mut Rng) -> &'static (&'static str, &'static [&'static str]) {
        let at = if rng.percent(60) {
            *rng.pick(&self.settings)
        } else {
            rng.below(SETTINGS.len())
        };
        &SETTINGS[at]
    }
}

/// Settings for a startup packet.
pub fn startup(rng: &mut Rng, taste: &Taste, client: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut options = Vec::new();
    if rng.percent(85) {
        options.push(format!("-c search_path=c{client}"));
    }
    while rng.percent(25) {
        let (name, values) = taste.setting(rng);
        let value = rng.pick(values).replace("{c}", &client.to_string());
        let fits = !all.iter().any(|(known, _)| known == name) && *name != "search_path";
        if rng.percent(50) && fits && value != "nowhere" && value != "-5" {
            all.push(((*name).to_string(), value));
        } else if !value.contains(' ')
            && *name != "search_path"
            && value != "nowhere"
            && value != "-5"
        {
            options.push(format!("-c {name}={value}"));
        }
    }
    if rng.percent(4) {
        options.push("-c role=team".into());
    }
    if rng.percent(1) {
        options.push("-c work_mem=lots".into());
    }
    if !options.is_empty() {
        all.push(("options".into(), options.join(" ")));
    }
    all
}

/// A SET or a SHOW, in one of their forms.
fn setting(rng: &mut Rng, taste: &Taste) -> String {
    let (name, values) = taste.setting(rng);
    let value = rng.pick(values);
    match rng.below(15) {
        0 => format!("set {name} to default"),
        1 => format!("reset {name}"),
        2 => format!("set local {name} = {}", quoted(name, value)),
        3 => format!("set session {name} = {}", quoted(name, value)),
        4 => format!("select set_config('{name}', '{value}', false)"),
        5 => format!("select set_config('{name}', '{value}', true)"),
        6 => format!("update pg_settings set setting = '{value}' where name = '{name}'"),
        7 => format!("set {name} = {}; select {{n}}", quoted(name, value)),
        8 | 9 => format!("show {name}"),
        10 => format!("select current_setting('{name}'), {{n}}"),
        11 => format!("SET {name} TO {}", quoted(name, value)),
        12 => format!("/* default */ set {name} = {}", quoted(name, value)),
        _ => format!("set {name} = {}", quoted(name, value)),
    }
}

fn quoted(name: &str, value: &str) -> String {
    if matches!(name, "search_path" | "datestyle") {
        value.into()
    } else {
        format!("'{value}'")
    }
}

/// Any text, and whether it changes what is stored.
pub fn any(rng: &mut Rng, taste: &Taste, client: usize, session: bool) -> (String, bool) {
    loop {
        let (text, durable) = some(rng, taste, client);
        if session || !excluded::mixes_names(&text) {
            return (text, durable);
        }
    }
}

fn some(rng: &mut Rng, taste: &Taste, client: usize) -> (String, bool) {
    let total: usize = KINDS.iter().map(|kind| kind.weight).sum();
    let mut left = rng.below(total + SETS);
    for kind in KINDS {
        if left < kind.weight {
            let text = rng_text(rng, kind);
            return (filled(rng, text, client), kind.durable);
        }
        left -= kind.weight;
    }
    let text = setting(rng, taste);
    (filled(rng, &text, client), false)
}

/// A text of the kinds that commit or roll back.
pub fn end(rng: &mut Rng, client: usize) -> String {
    let text = rng_text(rng, &COMMITS);
    filled(rng, text, client)
}

/// A COPY.
pub fn copy(rng: &mut Rng, client: usize) -> String {
    let text = rng_text(rng, &COPIES);
    filled(rng, text, client)
}

/// A text of the kind that clients prepare.
pub fn prepared(rng: &mut Rng, taste: &Taste, client: usize, session: bool) -> String {
    loop {
        let text = match rng.below(10) {
            0..=4 => {
                let text = if rng.percent(60) {
                    *rng.pick(&taste.texts)
                } else {
                    rng_text(rng, &READS)
                };
                // Texts that several clients share have no number of their own.
                if rng.percent(70) {
                    text.replace("{n}", "5")
                } else {
                    text.to_string()
                }
            }
            5 => rng_text(rng, &WRITES).to_string(),
            6 => setting(rng, taste),
            _ => any(rng, taste, client, session).0,
        };
        if session || !excluded::mixes_names(&text) {
            return filled(rng, &text, client);
        }
    }
}

fn rng_text(rng: &mut Rng, kind: &Kind) -> &'static str {
    kind.texts[rng.below(kind.texts.len())]
}

fn filled(rng: &mut Rng, text: &str, client: usize) -> String {
    let number = (100_000 + rng.below(800_000)).to_string();
    text.replace("{n}", &number)
        .replace("{c}", &client.to_string())
}
