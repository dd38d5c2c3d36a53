//! Tests of the whole, from a text to settings: what the keys mean.

mod definitions;
pub(crate) mod reference;
mod tls;
mod told;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::reference::reference;
use super::*;

/// A configuration as small as it gets; tests add to its end or its `[general]`.
const SMALL: &str = r#"
[general]
admin_username = "admin"
admin_password = "hunter2"
#GENERAL

[pools.shop]
#POOL

[[pools.shop.users]]
username = "app"
password = "md5d41d8cd98f00b204e9800998ecf8427e"
pool_size = 10
"#;

fn read(text: &str) -> Result<Settings, String> {
    parse(text, Path::new("test.toml")).map_err(|e| e.to_string())
}

fn with_general(lines: &str) -> Result<Settings, String> {
    read(&SMALL.replace("#GENERAL", lines))
}

fn with_pool(lines: &str) -> Result<Settings, String> {
    read(&SMALL.replace("#POOL", lines))
}

fn with_user(lines: &str) -> Result<Settings, String> {
    read(&format!("{SMALL}{lines}\n"))
}

fn warnings(settings: &Settings) -> Vec<String> {
    settings.warnings.iter().map(ToString::to_string).collect()
}

fn scratch(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pg_doorman-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_small_file_gives_all_defaults_and_no_warnings() {
    let settings = read(SMALL).unwrap();
    assert_eq!(warnings(&settings), [""; 0]);
    let general = &settings.general;
    assert_eq!(general.host, ["0.0.0.0"]);
    assert_eq!((general.port, general.max_connections), (5432, 8192));
    assert_eq!(general.query_wait_timeout, Duration::from_secs(5));
    assert_eq!(general.client_login_timeout, Some(Duration::from_secs(60)));
    assert_eq!((general.tcp_so_linger, general.backlog), (None, None));
    assert_eq!(general.unix_socket_mode, 0o600);
    assert!(!general.log_client_connections && !general.log_client_disconnections);
    assert_eq!(general.hba, Hba::Anyone);
    let pool = &settings.pools["shop"];
    assert_eq!(
        (pool.name.as_str(), pool.server_database.as_str()),
        ("shop", "shop")
    );
    assert_eq!(pool.pool_mode, PoolMode::Transaction);
    assert_eq!(
        pool.max_concurrent_creates, 2,
        "the smaller of the two limits"
    );
    assert_eq!(pool.server_lifetime, Some(Duration::from_secs(1200)));
    let user = pool.user("app").unwrap();
    assert_eq!(
        (user.pool_size, user.min_pool_size, user.server_name()),
        (10, 0, "app")
    );
    assert!(matches!(user.password, Password::Md5(_)));
    assert_eq!(settings.upgrade.timeout, Duration::from_secs(30));
}

#[test]
fn what_an_inner_table_says_goes_before_the_outer_one() {
    let text = SMALL
        .replace(
            "#GENERAL",
            "server_lifetime = \"1h\"\nidle_timeout = 0\nconnect_timeout = \"1s\"",
        )
        .replace("#POOL", "idle_timeout = \"5m\"\npool_mode = \"Session\"")
        + "[[pools.shop.users]]\nusername = 'web'\npassword = ''\npool_size = 1\n\
           pool_mode = 'transaction'\nserver_lifetime = 0\n";
    let settings = read(&text).unwrap();
    let pool = &settings.pools["shop"];
    assert_eq!(settings.general.idle_timeout, None);
    assert_eq!(pool.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(pool.connect_timeout, Duration::from_secs(1));
    let (app, web) = (pool.user("app").unwrap(), pool.user("web").unwrap());
    assert_eq!(
        (app.pool_mode, web.pool_mode),
        (PoolMode::Session, PoolMode::Transaction)
    );
    assert_eq!(
        (app.server_lifetime, web.server_lifetime),
        (Some(Duration::from_secs(3600)), None)
    );
}

#[test]
fn tls_that_was_asked_for_and_cannot_be_had_stops_the_run() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = with_general(&format!("tls_mode = \"{mode}\"")).unwrap_err();
        let expected =
            format!("tls_mode is {mode} but tls_certificate or tls_private_key is not set");
        assert!(error.contains(&expected), "{error}");
    }
    for mode in ["verify-ca", "verify-full"] {
        for (table, outcome) in [
            (
                "general",
                with_general(&format!("server_tls_mode = \"{mode}\"")),
            ),
            (
                "pools.shop",
                with_pool(&format!("server_tls_mode = \"{mode}\"")),
            ),
        ] {
            let error = outcome.unwrap_err();
            let expected = format!(
                "{table}.server_tls_mode: server_tls_mode is '{mode}' but server_tls_ca_cert is not set"
            );
            assert!(error.contains(&expected), "{error}");
        }
    }
    for mode in ["disable", "allow", "prefer", "require"] {
        let settings = with_general(&format!("server_tls_mode = \"{mode}\"")).unwrap();
        assert_eq!(warnings(&settings), [""; 0], "{mode}");
    }
    let error = with_general("tls_private_key = 'b'").unwrap_err();
    assert!(
        error.contains("tls_private_key is set but tls_certificate is not"),
        "{error}"
    );
    let error = with_general("tls_mode = 'verify-full'").unwrap_err();
    assert!(
        error.contains("tls_mode is verify-full but tls_ca_cert is not set"),
        "{error}"
    );
    assert!(
        error.contains("tls_mode is verify-full but tls_certificate or tls_private_key is not")
    );
}

#[test]
fn rules_between_keys_keep_their_familiar_texts() {
    let cases = [
        (
            "tls_rate_limit_per_second = 50",
            "tls rate limit should be > 100",
        ),
        (
            "tls_rate_limit_per_second = 150",
            "tls rate limit should be multiple 100",
        ),
        (
            "hba = []\npg_hba = ''",
            "general.hba and general.pg_hba cannot be specified at the same time",
        ),
        (
            "prepared_statements_cache_size = 0",
            "The value of prepared_statements_cache should be greater than 0 \
             if prepared_statements are enabled",
        ),
        ("host = ''", "nobody could connect"),
    ];
    for (lines, reason) in cases {
        let error = with_general(lines).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert!(with_general("host = ''\nunix_socket_dir = '/tmp'").is_ok());
}

#[test]
fn users_are_a_list_or_numbered_tables_and_have_different_names() {
    let numbered = "[general]\nadmin_username='a'\nadmin_password='b'\n\
        [pools.x.users.10]\nusername='c'\npassword=''\npool_size=1\n\
        [pools.x.users.9]\nusername='b'\npassword=''\npool_size=1\n";
    let settings = read(numbered).unwrap();
    let names: Vec<_> = settings.pools["x"]
        .users
        .iter()
        .map(|u| u.username.as_str())
        .collect();
    assert_eq!(names, ["b", "c"], "by number, not by letter");
    let error = read(&numbered.replace("users.9", "users.nine")).unwrap_err();
    assert!(
        error.starts_with("test.toml:8: pools.x.users.nine: expected a number"),
        "{error}"
    );
    let error = read(&numbered.replace("'c'", "'b'")).unwrap_err();
    assert!(
        error.contains("duplicate username 'b' in pool users"),
        "{error}"
    );
}

#[test]
fn a_users_keys_must_fit_together() {
    let error = with_user("min_pool_size = 11").unwrap_err();
    assert!(
        error.contains("min_pool_size (11) must not exceed pool_size (10)"),
        "{error}"
    );
    let error = with_user("server_password = 'x'").unwrap_err();
    assert!(
        error.contains("users.0.server_password: needs server_username"),
        "{error}"
    );
    let text = SMALL.replace("#POOL", "max_db_connections = 4") + "min_pool_size = 5\n";
    let error = read(&text).unwrap_err();
    assert!(
        error.contains("sum of min_pool_size (5) exceeds max_db_connections (4);"),
        "{error}"
    );
}

#[test]
fn hba_is_a_text_a_file_or_a_list_of_networks() {
    let line = "host all all 127.0.0.0/8 md5";
    let file = scratch("hba", &format!("# rules\n{line}\n"));
    let forms = [
        format!("pg_hba = \"{line}\""),
        format!("pg_hba = {{ content = \"{line}\" }}"),
        format!("pg_hba = {{ path = {file:?} }}"),
    ];
    for form in forms {
        let settings = with_general(&form).unwrap();
        let Hba::Rules(rules) = settings.general.hba else {
            panic!("{form}")
        };
        assert_eq!(rules[0].method, Method::Md5);
    }
    std::fs::write(&file, "\nhost all all 10.0.0 md5\n").unwrap();
    let error = with_general(&format!("pg_hba = {{ path = {file:?} }}")).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "{}:2: general.pg_hba: \"10.0.0\" is not an address",
            file.display()
        )),
        "{error}"
    );
    std::fs::remove_file(&file).unwrap();
    let error = with_general(&format!("pg_hba = {{ path = {file:?} }}")).unwrap_err();
    assert!(
        error.contains("general.pg_hba.path: Could not open"),
        "{error}"
    );

    let error = with_general("pg_hba = '''\nlocal all all trust\nhost all all md5'''").unwrap_err();
    assert!(
        error.contains("test.toml:5: general.pg_hba: line 2 of the text"),
        "{error}"
    );
    assert!(
        with_general("pg_hba = { file = 'x' }")
            .unwrap_err()
            .contains("only path and content")
    );

    let settings = with_general("hba = ['10.0.0.0/8']\nunix_socket_dir = '/tmp'").unwrap();
    assert!(matches!(&settings.general.hba, Hba::Networks(list) if list.len() == 1));
    assert!(warnings(&settings)[0].contains("Unix socket are not subject"));
    let error = with_general("hba = ['10.0.0.0/8', 'office']").unwrap_err();
    assert!(
        error.contains("\"office\" is not an address or network"),
        "{error}"
    );
}

#[test]
fn startup_parameters_of_pool_and_general_are_laid_over_each_other() {
    let text = SMALL
        .replace(
            "#GENERAL",
            "startup_parameters = { timezone = 'UTC', Work_Mem = '4MB', jit = false }",
        )
        .replace(
            "#POOL",
            "startup_parameters = { TIMEZONE = 'Asia/Tokyo', statement_timeout = 5000 }",
        );
    let settings = read(&text).unwrap();
    let merged: Vec<_> = settings.pools["shop"]
        .startup_parameters
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        merged,
        [
            "TimeZone=Asia/Tokyo",
            "jit=off",
            "statement_timeout=5000",
            "work_mem=4MB"
        ]
    );

    let refused = |table: &str| with_pool(&format!("startup_parameters = {table}")).unwrap_err();
    assert!(refused("{ role = 'x' }").contains("pools.shop.startup_parameters.role: is reserved"));
    assert!(refused("{ timezone = 'x', TimeZone = 'y' }").contains("is set twice"));
    let long = "x".repeat(9000);
    assert!(
        refused(&format!("{{ a = '{long}', b = '{long}' }}"))
            .contains("PostgreSQL has room for 9488")
    );
    let text = SMALL
        .replace(
            "#GENERAL",
            &format!("startup_parameters = {{ a = '{long}' }}"),
        )
        .replace("#POOL", &format!("startup_parameters = {{ b = '{long}' }}"));
    assert!(
        read(&text)
            .unwrap_err()
            .contains("together with those of [general]")
    );
    let error = with_user(&format!("server_username = '{long}{long}'")).unwrap_err();
    assert!(
        error.contains("startup packet is longer than PostgreSQL accepts"),
        "{error}"
    );
}

#[test]
fn included_files_are_merged_and_keep_their_own_lines() {
    let first = scratch("first.toml", "[general]\nport = 7000\nidle_timeout = 'x'\n");
    let second = scratch(
        "second.toml",
        "[general]\nport = 7001\nidle_timeout = '1s'\n[[pools.shop.users]]\n\
         username = 'web'\npassword = ''\npool_size = 1\n[include]\nfiles = ['x']\n",
    );
    let include = |files: &[&PathBuf]| read(&format!("{SMALL}[include]\nfiles = {files:?}\n"));
    let settings = include(&[&first, &second]).unwrap();
    assert_eq!(settings.general.port, 7001, "the later file wins");
    assert_eq!(settings.pools["shop"].users.len(), 2, "users are joined");
    let told = warnings(&settings);
    assert!(
        told.iter()
            .any(|one| one.contains("included by an included file"))
    );
    let error = include(&[&second, &first]).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "{}:3: general.idle_timeout: \"x\"",
            first.display()
        )),
        "{error}"
    );

    let error = read(&format!(
        "{SMALL}[include]\nfiles = ['/nowhere.toml', 'a.yaml']\n"
    ))
    .unwrap_err();
    assert!(
        error.contains("test.toml:15: include.files: Could not open '/nowhere.toml'"),
        "{error}"
    );
    assert!(error.contains("reads TOML only"), "{error}");
    for file in [first, second] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn show_config_has_a_row_for_every_field() {
    let settings = with_general("connect_timeout = '2s'\nunix_socket_mode = '660'").unwrap();
    let rows = show(&settings);
    let row = |key: &str| {
        rows.iter()
            .find(|r| r.key == key)
            .unwrap_or_else(|| panic!("{key}"))
    };
    let text = |key: &str| {
        let row = row(key);
        (row.value.as_str(), row.default.as_str(), row.changeable)
    };
    assert_eq!(text("connect_timeout"), ("2000", "3000", true));
    assert_eq!(text("port"), ("5432", "5432", false));
    assert_eq!(text("unix_socket_mode"), ("0660", "0600", false));
    assert_eq!(text("admin_password"), ("***", "-", true));
    assert_eq!(text("tcp_user_timeout"), ("60", "60", true));
    assert_eq!(text("pools.shop.pool_mode"), ("transaction", "-", true));
    assert_eq!(text("pools.shop.connect_timeout"), ("2000", "-", true));
    assert_eq!(text("pools.shop.users.app.password"), ("***", "-", true));
    assert_eq!(text("pools.shop.users"), ("app", "-", true));
    assert_eq!(text("hba").0, "anyone");
    assert_eq!(text("tcp_so_linger"), ("", "-", true));
    assert_eq!(text("retain_connections_max"), ("3", "3", true));
    assert_eq!(text("backlog"), ("0", "0", false));
    assert_eq!(text("upgrade.timeout"), ("30000", "30000", true));
}
