//! What the operator is told: errors and warnings, and never a secret.

use super::*;

#[test]
fn a_wrong_value_is_told_with_file_line_key_and_reason() {
    assert_eq!(
        with_general("query_wait_timeout = \"5 apples\"").unwrap_err(),
        "test.toml:5: general.query_wait_timeout: \"5 apples\" is not a duration; \
         write milliseconds or e.g. \"5s\" (units: ms, s, m, h, d)"
    );
    assert_eq!(
        with_general("tcp_keepalives_count = 128").unwrap_err(),
        "test.toml:5: general.tcp_keepalives_count must be 0-127"
    );
    assert_eq!(
        with_general("scaling_max_parallel_creates = 0").unwrap_err(),
        "test.toml:5: general.scaling_max_parallel_creates must be >= 1"
    );
    assert!(
        with_general("port = 65536")
            .unwrap_err()
            .contains("general.port must be 1-65535")
    );
    assert!(
        with_general("tls_mode = \"on\"")
            .unwrap_err()
            .contains("Invalid tls_mode: \"on\"")
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = SMALL
        .replace("#GENERAL", "port = 0\nidle_timeout = true")
        .replace("#POOL", "server_port = \"x\"")
        .replace("pool_size = 10", "pool_size = 0\nmin_pool_size = -1");
    let error = read(&text).unwrap_err();
    let lines: Vec<&str> = error
        .lines()
        .map(|l| l.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "test.toml:5",
            "test.toml:6",
            "test.toml:9",
            "test.toml:14",
            "test.toml:15"
        ],
        "{error}"
    );
}

#[test]
fn what_is_required_and_missing_is_told_at_its_table() {
    let error = read("[general]\n[pools.a]\n[[pools.a.users]]\n").unwrap_err();
    for line in [
        "test.toml:1: general.admin_username: is required and not set",
        "test.toml:1: general.admin_password: is required and not set",
        "test.toml:3: pools.a.users.0.username: is required and not set",
        "test.toml:3: pools.a.users.0.password: is required and not set",
    ] {
        assert!(error.contains(line), "{line} in {error}");
    }
    let error = read("").unwrap_err();
    assert!(
        error.contains("test.toml: general: the table [general] is missing"),
        "{error}"
    );
    assert!(error.contains("the table [pools] is missing"), "{error}");
}

#[test]
fn an_error_does_not_hide_the_misspelling_that_caused_it() {
    let text = SMALL.replace("admin_password", "admin_pasword");
    let error = parse(&text, Path::new("test.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("general.admin_password: is required"),
        "{error}"
    );
    let told = error.warnings()[0].to_string();
    assert!(told.contains("admin_pasword: unknown key, ignored; did you mean `admin_password`?"));
    assert!(!told.contains("hunter2"));
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_name_in_every_table() {
    let text = SMALL
        .replace(
            "#GENERAL",
            "query_wait_timeuot = 1\nserver_host = 'x'\ncolour = 1",
        )
        .replace("#POOL", "server_hots = 'x'")
        + "pool_sise = 1\n[upgrade]\nmigrat = true\n[web]\nprot = 1\n[genral]\n";
    let told = warnings(&read(&text).unwrap());
    let expected = [
        "test.toml:5: general.query_wait_timeuot: unknown key, ignored; \
         did you mean `query_wait_timeout`?",
        "test.toml:6: general.server_host: unknown key here, ignored; \
         `server_host` belongs in [pools.NAME]",
        "test.toml:7: general.colour: unknown key, ignored",
        "test.toml:10: pools.shop.server_hots: unknown key, ignored; did you mean `server_host`?",
        "test.toml:16: pools.shop.users.0.pool_sise: unknown key, ignored; \
         did you mean `pool_size`?",
        "test.toml:18: upgrade.migrat: unknown key, ignored; did you mean `migrate`?",
        "test.toml:20: web.prot: unknown key, ignored; did you mean `port`?",
        "test.toml:21: genral: unknown table, ignored; did you mean `general`?",
    ];
    assert_eq!(told, expected);
}

#[test]
fn keys_without_effect_are_told_only_where_they_are_written() {
    let text = "worker_threads = 8\nmax_memory_usage = 0\n\
                client_prepared_statements_cache_size = 5";
    let settings = with_general(text).unwrap();
    let told = warnings(&settings).join("\n");
    assert!(
        told.contains("test.toml:5: general.worker_threads: has no effect"),
        "{told}"
    );
    assert!(
        told.contains("test.toml:7: general.client_prepared_statements_cache_size: has no effect")
    );
    assert!(
        !told.contains("max_memory_usage"),
        "switching off what is not there is no news"
    );
}

#[test]
fn no_secret_is_ever_printed() {
    let text = SMALL
        .replace("#GENERAL", "port = 0\ncolour = 'hunter2'")
        .replace("md5d41d8cd98f00b204e9800998ecf8427e", "hunter2")
        + "server_username = 'u'\nserver_password = ['hunter2']\n\
           [pools.shop.auth_query]\npassword = {x = 'hunter2'}\n";
    let error = parse(&text, Path::new("test.toml")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    assert!(
        error
            .to_string()
            .contains("SELECT rolpassword FROM pg_authid"),
        "{error}"
    );

    let text = format!("{SMALL}server_username = 'u'\nserver_password = 'hunter2'\n");
    let settings = read(&text).unwrap();
    let shown = format!("{settings:?} {:?}", show(&settings));
    assert!(
        !shown.contains("hunter2") && !shown.contains("d41d8c"),
        "{shown}"
    );
    assert_eq!(settings.general.admin_password.expose(), "hunter2");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let error = load(Path::new("/nowhere/a.toml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "Could not open '/nowhere/a.toml': No such file or directory (os error 2)"
    );
    let error = load(Path::new("/nowhere/a.yml")).unwrap_err().to_string();
    assert!(
        error.starts_with("/nowhere/a.yml: this program reads TOML only"),
        "{error}"
    );
}

#[test]
fn any_database_needs_to_know_where_its_query_runs() {
    let text = SMALL.to_owned() + "[pools.'*'.auth_query]\nquery = 'select $1'\nuser = 'x'\n";
    let error = read(&text).unwrap_err();
    assert!(error.contains("auth_query: needs `database`"), "{error}");
    let settings = read(&(text + "database = 'postgres'\n")).unwrap();
    assert_eq!(
        settings.pools["*"].auth_query.as_ref().unwrap().database,
        "postgres"
    );
    assert_eq!(settings.serving("shop").unwrap().name, "shop");
    assert_eq!(settings.serving("nowhere").unwrap().name, "*");
    let general = SMALL.replace(
        "[pools.shop]",
        "[general.auth_query]\nquery = 'x'\n[pools.shop]",
    );
    let error = read(&general).unwrap_err();
    assert_eq!(
        error.matches("general.auth_query.user").count(),
        1,
        "{error}"
    );
}

#[test]
fn pam_is_told_to_be_missing_and_web_to_be_local() {
    let text = SMALL.to_owned()
        + "auth_pam_service = 'x'\n\
           [pools.shop.auth_query]\nquery = 'select $1'\nuser = 'x'\n\
           [prometheus]\nenabled = true\nport = 9000\n";
    let settings = read(&text).unwrap();
    let told = warnings(&settings).join("\n");
    for key in ["auth_pam_service", "prometheus", "host"] {
        assert_eq!(
            told.matches(&format!("{key}: ")).count(),
            1,
            "{key} in {told}"
        );
    }
    assert_eq!(settings.web.port, 9000);
    assert_eq!(
        settings.pools["shop"].auth_query.as_ref().unwrap().database,
        "shop"
    );
    let error = read(&(text + "[web]\n")).unwrap_err();
    assert!(
        error.contains("old name of [web], which is there too"),
        "{error}"
    );
}

#[test]
fn a_file_that_holds_no_key_for_tokens_is_told() {
    let key = |text: &str| {
        let password = format!("jwt-pkey-fpath:{text}");
        SMALL.replace("md5d41d8cd98f00b204e9800998ecf8427e", &password)
    };
    let error = read(&key("/no/such.pem")).unwrap_err();
    assert!(
        error.contains("0.password: Could not open \"/no/such.pem\""),
        "{error}"
    );
    let error = read(&key("/dev/null")).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
    let own =
        SMALL.to_owned() + "server_username = 'x'\nserver_password = 'jwt-priv-key-fpath:/k'\n";
    let error = read(&own).unwrap_err();
    assert!(
        error.contains("0.server_password: Could not open \"/k\""),
        "{error}"
    );
}

/// Not a search for bugs, but for the damage that a torn or mistyped file has.
#[test]
fn any_damage_to_a_file_gives_settings_or_an_error() {
    let whole = reference().replace("\n#", "\n");
    let small = SMALL.replace(
        "#GENERAL",
        "pg_hba = '''local all, \"a\" all trust\nhost all all ::1/128 md5'''\nhost = 'a,b'",
    );
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 11).unwrap_or(0) % below
    };
    for (source, rounds) in [(small, 3000), (whole, 30)] {
        for _ in 0..rounds {
            let mut bytes = source.clone().into_bytes();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = b"\"'[]{}=.,#\n\\09-\xff\0/"[random(18)],
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    2 => bytes.truncate(at + 1),
                    _ => bytes.extend_from_within(at..(at + random(40)).min(bytes.len())),
                }
            }
            let mut report = Report::default();
            let document = raw::parse(&bytes, Path::new("torn.toml"), &mut report);
            let _ = finish(&document, Path::new("torn.toml"), report);
        }
    }
}

#[test]
fn a_server_host_that_can_never_be_resolved_is_told() {
    for (host, reason) in [
        ("a,b", "is a list of hosts"),
        ("db:5432", "has a colon"),
        ("postgres://db/app", "is a URL"),
        ("[::1]", "in brackets"),
        (" db", "has a blank"),
    ] {
        let text = SMALL.replace("#POOL", &format!("server_host = \"{host}\""));
        let told = read(&text).unwrap_err();
        assert!(
            told.contains("server_host") && told.contains(reason),
            "{told}"
        );
    }
    for host in [
        "db",
        "::1",
        "fe80::1",
        "192.0.2.1",
        "/run/postgresql",
        "db.example.",
    ] {
        let text = SMALL.replace("#POOL", &format!("server_host = \"{host}\""));
        assert!(read(&text).is_ok(), "{host}");
    }
}

#[test]
fn settings_of_pgbouncer_are_told_by_what_takes_their_place() {
    let told = |line: &str| {
        let settings = read(&SMALL.replace("#GENERAL", line)).unwrap();
        warnings(&settings).join("; ")
    };
    for (line, hint) in [
        ("listen_addr = '*'", "write `host` in [general]"),
        ("max_client_conn = 100", "write `max_connections`"),
        ("server_idle_timeout = 600", "write `idle_timeout`"),
        (
            "max_prepared_statements = 0",
            "server_prepared_statements_cache_size",
        ),
        (
            "query_wait_timeout = 120",
            "120 means 120 ms; write \"120s\"",
        ),
        (
            "server_lifetime = 3600",
            "3600 means 3600 ms; write \"3600s\"",
        ),
    ] {
        assert!(told(line).contains(hint), "{line}: {}", told(line));
    }
    let pool = SMALL.replace("#POOL", "host = 'db'\nport = 5432\ndatabase = 'x'");
    let pool = warnings(&read(&pool).unwrap()).join("; ");
    for key in ["server_host", "server_port", "server_database"] {
        assert!(pool.contains(&format!("did you mean `{key}`?")), "{pool}");
    }
    let ini = "[databases]\napp = host=db port=5432\n[pgbouncer]\nlisten_addr = *\n";
    assert!(
        read(ini)
            .unwrap_err()
            .contains("a configuration of PgBouncer")
    );
    assert_eq!(told("query_wait_timeout = 120000"), "");
    assert_eq!(told("query_wait_timeout = '120ms'"), "");
    let settings = read(&format!("{SMALL}[databases]\napp = 'host=db'\n")).unwrap();
    assert!(warnings(&settings)[0].contains("[pools.NAME]"));
}
