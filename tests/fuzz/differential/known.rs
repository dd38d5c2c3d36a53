//! Sequences that once found a fault. Played in every pool before the random ones.

use crate::frontend::Front;
use crate::step::{Leave, Step};

fn login(client: usize, options: &str) -> Step {
    let settings = [format!("-c search_path=c{client}"), options.into()].join(" ");
    Step::Login(client, vec![("options".into(), settings)])
}

fn q(sql: &str) -> Front {
    Front::Query(sql.into())
}

fn p(name: &str, sql: &str) -> Front {
    Front::Parse(name.into(), sql.into())
}

fn b(name: &str) -> Front {
    Front::Bind(String::new(), name.into(), Vec::new())
}

fn e() -> Front {
    Front::Execute(String::new(), 0)
}

fn d(data: &str) -> Front {
    Front::Data(data.as_bytes().to_vec())
}

const S: Front = Front::Sync;
const C: Front = Front::Done;

fn send(client: usize, messages: Vec<Front>) -> Step {
    Step::Send(client, messages)
}

/// The sequences, each with a name.
pub fn sequences() -> Vec<(&'static str, Vec<Step>)> {
    let two = || [login(0, ""), login(1, "")];
    let mut all: Vec<(&'static str, Vec<Step>)> = Vec::new();
    let mut add = |name, steps: Vec<Step>| all.push((name, [&two()[..], &steps].concat()));

    let rows = d(&"1\tmany rows\n".repeat(600));
    let failing = [
        &[q("copy t from stdin"), d("bad\n")][..],
        &vec![rows; 60],
        &[S],
    ]
    .concat();
    add(
        "a COPY that fails under a Sync",
        vec![
            send(0, failing),
            send(1, vec![q("select 111")]),
            send(0, vec![q("select 222")]),
        ],
    );
    for table in ["v", "trig", "missing", "t"] {
        let copy = vec![p("", &format!("copy {table} from stdin")), b(""), e(), S];
        add(
            "a COPY in a batch with its Sync",
            vec![
                send(0, copy),
                send(1, vec![q("select 111")]),
                send(0, vec![d("1\tx\n"), C, S]),
            ],
        );
    }
    for second in [
        q("select 111"),
        Front::Call(177, vec![Some("2".into()), Some("3".into())]),
        q("discard temp"),
    ] {
        let steps = vec![
            send(0, vec![p("", "selec 5"), second.clone()]),
            send(1, vec![q("select 222")]),
            send(0, vec![second, S]),
        ];
        add("a query that PostgreSQL skips", steps);
    }
    for barred in [
        "set role team",
        "reset all",
        "discard all",
        "deallocate all",
        "do $$ begin perform 1; end $$",
        "select set_config('jit', 'off', false)",
    ] {
        let steps = vec![
            send(0, vec![p("", "selec 5"), q(barred), S]),
            send(1, vec![q("select 222")]),
        ];
        add("a barrier that PostgreSQL skips", steps);
        let steps = vec![
            send(0, vec![q(barred), p("", "selec 5")]),
            send(0, vec![S]),
            send(1, vec![q("select 222")]),
        ];
        add("an error behind a barrier", steps);
    }
    let steps = vec![
        Step::Leave(0, Leave::Terminate(Vec::new())),
        login(0, "-c role=team"),
        send(0, vec![q("select current_user")]),
        Step::Leave(0, Leave::Terminate(Vec::new())),
        login(0, "-c work_mem=1MB"),
        send(0, vec![q("select current_user")]),
    ];
    add("a role at startup", steps);
    for trace in [
        q("update pg_settings set setting = '77s' where name = 'statement_timeout'"),
        q("update pg_settings set setting = 'pg_catalog' where name = 'search_path'"),
        q("set search_path = pg_temp, public; create table secret (a int)"),
        Front::Call(2880, vec![Some("4".into())]),
        Front::Call(
            2078,
            ["work_mem", "2MB", "f"]
                .map(|word| Some(word.into()))
                .to_vec(),
        ),
    ] {
        add(
            "something left behind",
            vec![send(0, vec![trace]), Step::Probe],
        );
    }
    let steps = vec![
        Step::Leave(0, Leave::Terminate(Vec::new())),
        login(0, "-c default_transaction_read_only=on"),
        send(0, vec![q("set default_transaction_read_only = off")]),
        send(0, vec![q("insert into t values (1, 'x')")]),
    ];
    add("a SET with the word default in it", steps);
    for texts in [
        ["select * from z", "c0", "public"],
        ["select * from t", "c0", "c1"],
    ] {
        let [text, one, other] = texts;
        let steps = vec![
            send(0, vec![q(&format!("set search_path = {one}"))]),
            send(
                0,
                vec![p("s0", text), Front::Describe(b'S', "s0".into()), S],
            ),
            send(0, vec![q(&format!("set search_path = {other}"))]),
            send(0, vec![b("s0"), e(), S]),
        ];
        add("a statement under another search_path", steps);
    }
    let steps = vec![
        send(
            0,
            vec![p("s0", "deallocate s0"), p("s1", "deallocate s1"), S],
        ),
        send(
            0,
            vec![
                b("s0"),
                Front::Bind("p0".into(), "s1".into(), Vec::new()),
                Front::Execute("p0".into(), 0),
                S,
            ],
        ),
        send(
            1,
            vec![p("s0", "deallocate s0"), p("s1", "deallocate s1"), S],
        ),
        send(1, vec![b("s0"), e(), S]),
    ];
    add("two portals that deallocate", steps);
    for first in [
        "begin; set local search_path = c0",
        "begin; set timezone = 'Asia/Tokyo'",
        "begin; select set_config('search_path', 'c0', true)",
        "select 1",
    ] {
        for copy in [
            "copy t from stdin",
            "copy discarded from stdin",
            "set local search_path = c0; copy t from stdin",
        ] {
            let steps = vec![
                send(0, vec![q(first)]),
                send(0, vec![q(copy)]),
                send(0, vec![d("5\tfive\n"), C]),
                send(0, vec![q("commit")]),
                send(0, vec![p("", copy), b(""), e()]),
                send(0, vec![Front::Flush]),
                send(0, vec![d("5\tfive\n"), C, S]),
            ];
            add("a COPY behind a barrier", steps);
        }
    }
    let timezone = || Front::Call(2077, vec![Some("timezone".into())]);
    add(
        "an unnamed statement across the pooler's own",
        vec![
            send(0, vec![p("", "begin"), timezone()]),
            send(0, vec![b(""), e(), S]),
            send(0, vec![timezone(), b(""), e(), S]),
            send(0, vec![q("rollback")]),
        ],
    );
    let portal = || Front::Describe(b'P', String::new());
    add(
        "an unnamed portal across the pooler's own",
        vec![
            send(0, vec![q("begin read only")]),
            send(0, vec![p("", "reset role"), b(""), e(), S, portal()]),
            send(0, vec![S, p("", "reset all"), b(""), e(), S, portal(), S]),
        ],
    );
    add(
        "a login while all server connections are taken",
        vec![
            send(0, vec![p("s0", "select 1"), b("s0")]),
            send(1, vec![p("s0", "select 1"), b("s0")]),
            login(2, "-c timezone=Asia/Tokyo -c work_mem=2MB"),
            send(0, vec![e(), S]),
        ],
    );
    let wrong = [Front::Describe(b'Y', "s0".into()), S];
    add("a kind that is none", vec![send(0, wrong.to_vec())]);
    for text in ["select 1", "rollback", ""] {
        let parses = || vec![p("s1", text), S];
        let fails = || vec![p("", "selec"), S];
        let forgets = vec![Front::Close(b'S', "s1".into()), S];
        let steps = vec![
            send(0, parses()),
            send(0, forgets.clone()),
            send(0, vec![q("begin"), p("s2", "select 1"), S]),
            send(0, [fails(), parses(), vec![S]].concat()),
            send(0, vec![q("rollback")]),
            send(0, forgets),
            send(0, [vec![q("begin; selec")], parses()].concat()),
            send(0, vec![q("rollback")]),
        ];
        add("a Parse behind a batch that fails in a block", steps);
    }
    let closes = |name: &str| Front::Close(b'S', name.into());
    let in_a_copy = [
        p("", "select 1"),
        b("s0"),
        b(""),
        Front::Describe(b'S', "s0".into()),
        Front::Describe(b'P', String::new()),
        e(),
        closes("s0"),
        Front::Close(b'P', String::new()),
        timezone(),
        q("select 1"),
    ];
    let others = [
        S,
        Front::Flush,
        d("1\tx\n"),
        C,
        Front::Fail("enough".into()),
    ];
    for message in in_a_copy.iter().chain(&others) {
        for copy in [
            "copy t to stdout",
            "copy (select generate_series(1, 3000)) to stdout",
        ] {
            let steps = vec![
                send(0, vec![q(copy), message.clone(), S]),
                send(1, vec![q("select 111")]),
                send(0, vec![p("", copy), b(""), e(), message.clone(), S]),
            ];
            add("a message while a COPY sends rows", steps);
        }
    }
    for message in in_a_copy {
        let broken = vec![q("begin; copy t from stdin"), message.clone()];
        add("a broken COPY", vec![send(0, broken.clone())]);
        let apart = vec![
            send(0, vec![q("copy t from stdin")]),
            send(0, vec![message]),
        ];
        add("a broken COPY", apart);
        let left = vec![Step::Leave(0, Leave::Terminate(broken))];
        add("a broken COPY and Terminate", left);
    }
    let deallocate = || q("deallocate s1");
    for before in ["select 1", "begin", "begin; selec"] {
        let steps = vec![
            send(0, vec![q(before)]),
            send(0, vec![p("s1", "select 1"), deallocate()]),
            send(0, vec![b("s1"), e(), S]),
            send(0, vec![p("s1", "select 2"), S]),
            send(0, vec![p("", "select 3"), deallocate(), b(""), e(), S]),
            send(0, vec![p("s1", "select 4"), b("s1"), e(), S]),
            send(
                0,
                vec![p("s2", "selec 5"), deallocate(), S, b("s1"), e(), S],
            ),
            send(0, vec![p("", "select 6"), deallocate(), deallocate(), S]),
            send(0, vec![q("rollback")]),
        ];
        add("a DEALLOCATE in an open batch", steps);
    }
    let describes = Front::Describe(b'S', String::new());
    for answered in [
        describes,
        closes("s1"),
        closes(""),
        p("s2", "select 1"),
        deallocate(),
    ] {
        for between in [vec![], vec![S], vec![S, d("6\tsix\n")]] {
            let copy = [
                &[q("copy t from stdin")][..],
                &between,
                std::slice::from_ref(&answered),
            ]
            .concat();
            let steps = vec![
                send(0, vec![p("s1", "select 1"), p("s2", "select 1"), S]),
                send(0, vec![closes("s2"), S]),
                send(0, [&copy[..], &[d("7\tseven\n"), C]].concat()),
                send(1, vec![q("select count(*) from c0.t")]),
            ];
            add("a COPY broken by what needs no server", steps);
        }
    }
    add(
        "a query and Terminate",
        vec![Step::Leave(
            0,
            Leave::Terminate(vec![q("insert into t values (9, 'last')")]),
        )],
    );
    all
}
