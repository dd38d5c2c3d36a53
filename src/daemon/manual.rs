//! The man pages and the bash completion under `contrib/` are made from the definitions of settings and options.
//!
//! Tests only: nothing of it is in the program. `UPDATE_REFERENCE=1 cargo test --lib reference` writes them anew.
//!
//! The invariant: every option and every setting is in the pages, with the words of `-h` and of the reference.

use std::fmt::Write as _;
use std::path::Path;

use super::arguments::Arguments;
use crate::config::tests::reference::{facts, names_without_effect};
use crate::config::{Definition, TABLES};
use clap::{Arg, Command, CommandFactory as _};

/// The day on which the texts of the pages last changed.
const DATE: &str = "November 29, 2026";

#[test]
fn the_pages_and_the_completion_say_what_the_reference_says() {
    let command = Arguments::command();
    let mut completion = Vec::new();
    clap_complete::generate(
        clap_complete::Shell::Bash,
        &mut command.clone(),
        "pg_doorman",
        &mut completion,
    );
    let completion = String::from_utf8(completion).unwrap();
    let stale: Vec<&str> = [
        ("contrib/man/pg_doorman.1", program(&command)),
        ("contrib/man/pg_doorman.toml.5", settings()),
        ("contrib/completion/pg_doorman.bash", completion),
    ]
    .into_iter()
    .filter(|(path, text)| is_stale(path, text))
    .map(|(path, _)| path)
    .collect();
    assert!(
        stale.is_empty(),
        "stale; run: UPDATE_REFERENCE=1 cargo test --lib reference: {stale:?}"
    );
    lint();
}

/// mandoc says nothing against the pages, except that it does not find those that are not installed.
fn lint() {
    let pages = ["contrib/man/pg_doorman.1", "contrib/man/pg_doorman.toml.5"];
    let linted = std::process::Command::new("mandoc")
        .args(["-T", "lint"])
        .args(pages)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let Ok(linted) = linted else {
        eprintln!("mandoc is not there; the pages were not linted");
        return;
    };
    let said = String::from_utf8_lossy(&linted.stdout).into_owned();
    let told: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("referenced manual not found"))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
}

fn is_stale(path: &str, text: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    std::fs::read_to_string(&path).unwrap_or_default() != text
}

// pg_doorman(1)

fn program(command: &Command) -> String {
    let upgrade = command.find_subcommand("upgrade").unwrap();
    let mut out = head("PG_DOORMAN", 1);
    out.push_str(
        ".Sh NAME\n.Nm pg_doorman\n.Nd connection pooler for PostgreSQL\n\
         .Sh SYNOPSIS\n.Nm\n.Op Ar OPTIONS\n.Op Ar CONFIG_FILE\n\
         .Nm\n.Cm upgrade\n.Op Ar UPGRADE_OPTIONS\n.Op Ar CONFIG_FILE\n.Sh DESCRIPTION\n",
    );
    text(&mut out, ABOUT);
    text(
        &mut out,
        "The configuration is CONFIG_FILE, see pg_doorman.toml(5). Without an argument it is pg_doorman.toml in the \
         working directory.",
    );
    out.push_str(".Pp\nThe options are as follows:\n");
    options(&mut out, command);
    out.push_str(".Ss Upgrading\n.Nm\n.Cm upgrade\n");
    text(&mut out, UPGRADING);
    out.push_str(".Pp\nIts options are as follows:\n");
    options(&mut out, upgrade);
    out.push_str(REST);
    out
}

fn options(out: &mut String, command: &Command) {
    out.push_str(".Bl -tag -width Ds\n");
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let value = match arg.get_value_names() {
            Some([name, ..]) if arg.get_action().takes_values() => format!(" Ar {name}"),
            _ => String::new(),
        };
        let names: Vec<String> = arg
            .get_short()
            .map(|short| format!("Fl {short}{value}"))
            .into_iter()
            .chain(arg.get_long().map(|long| format!("Fl -{long}{value}")))
            .collect();
        let names = match names.is_empty() {
            true => format!("Ar {}", arg.get_id().as_str().to_uppercase()),
            false => names.join(" , "),
        };
        let _ = writeln!(out, ".It {names}");
        text(out, &sentence(&help(arg)));
        text(out, &about_values(arg));
    }
    // Clap adds these two itself, when it parses.
    out.push_str(
        ".It Fl h , Fl -help\nPrint a summary of the options.\n\
         .It Fl V , Fl -version\nPrint the version.\n.El\n",
    );
}

fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    help.map(ToString::to_string)
        .unwrap_or_default()
        .replace("\n\n", ". ")
}

fn about_values(arg: &Arg) -> String {
    let mut said = Vec::new();
    let possible: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if arg.get_action().takes_values() {
        if !possible.is_empty() {
            said.push(format!("One of: {}.", possible.join(", ")));
        }
        if let [default] = arg.get_default_values() {
            said.push(format!("Default: {}.", default.to_string_lossy()));
        }
    }
    if let Some(variable) = arg.get_env() {
        said.push(format!(
            "Also from the environment: {}.",
            variable.to_string_lossy()
        ));
    }
    said.join(" ")
}

const ABOUT: &str = "The program is a connection pooler for PostgreSQL. Many clients share few server \
    connections. At an upgrade a new process takes over every session, with its sockets and its connection to \
    PostgreSQL. No client notices.";

const UPGRADING: &str = "has a running instance replaced by the binary that now lies at the program's path. It \
    waits until that is over and says how it went. If the new binary fails at any point, the old process goes on \
    serving. The command must run as the user of the pooler, or as root.";

const REST: &str = r".Sh SIGNALS
.Bl -tag -width Ds
.It Dv SIGTERM
Stop now.
Clients get error 57P01.
.It Dv SIGINT
From a terminal: stop when transactions have finished.
Otherwise: upgrade.
.It Dv SIGHUP
Read the configuration again, and open the log file anew.
A wrong configuration changes nothing.
.It Dv SIGUSR2
Upgrade.
.El
.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev NO_COLOR
If it is not empty, the log is not coloured.
.El
.Pp
Options that can come from the environment name their variable.
.Sh FILES
.Bl -tag -width Ds
.It Pa /etc/pg_doorman/pg_doorman.toml
The configuration of a packaged pg_doorman.
.It Pa /run/pg_doorman/pg_doorman.pid
The pid file of a daemon, unless another is named.
.It Pa /var/log/pg_doorman/pg_doorman.log
The log of a daemon, unless another is named.
.El
.Sh EXIT STATUS
.Bl -tag -width Ds
.It 0
Normal stop; the configuration is good; the upgrade is complete.
.It 1
Another failure; the instance was not upgraded.
.It 2
Wrong usage.
.It 71
The operating system refused something.
.It 78
The configuration is wrong, or an address in it cannot be listened on.
.El
.Sh EXAMPLES
Test a configuration:
.Pp
.Dl pg_doorman -t /etc/pg_doorman/pg_doorman.toml
.Pp
Upgrade the instance that runs with it:
.Pp
.Dl pg_doorman upgrade /etc/pg_doorman/pg_doorman.toml
.Sh SEE ALSO
.Xr psql 1 ,
.Xr pg_doorman.toml 5
";

// pg_doorman.toml(5)

fn settings() -> String {
    let mut out = head("PG_DOORMAN.TOML", 5);
    out.push_str(
        ".Sh NAME\n.Nm pg_doorman.toml\n.Nd configuration of the connection pooler pg_doorman\n.Sh DESCRIPTION\n",
    );
    text(&mut out, FORM);
    out.push_str(EXAMPLE);
    for (table, keys) in TABLES {
        let name = table.trim_matches(['[', ']']);
        let _ = writeln!(out, ".Sh TABLE {}", name.to_uppercase());
        let _ = writeln!(out, "It is written as\n.Ql {table} .");
        let mut group = "";
        let mut is_open = false;
        for key in keys.iter() {
            if key.group != group || !is_open {
                if is_open {
                    out.push_str(".El\n");
                }
                if key.group != group {
                    group = key.group;
                    let _ = writeln!(out, ".Ss {group}");
                }
                out.push_str(".Bl -tag -width Ds\n");
                is_open = true;
            }
            setting(&mut out, key);
        }
        if is_open {
            out.push_str(".El\n");
        }
    }
    out.push_str(".Sh SETTINGS WITHOUT EFFECT\n");
    text(
        &mut out,
        "They are settings of the async pg_doorman, and are accepted in any table.",
    );
    for line in names_without_effect() {
        out.push_str(".Pp\n");
        text(&mut out, &line);
    }
    out.push_str(".Sh SEE ALSO\n.Xr pg_doorman 1\n");
    out
}

const FORM: &str = "The configuration is a file in TOML. A duration is a number of milliseconds, or a text with a \
    unit: \"500ms\", \"5s\", \"10m\", \"2h\", \"1d\". A size is a number of bytes, or a text with a unit of 1024: \
    \"64KB\", \"1MB\", \"2GB\". Each setting says what makes a change take effect: a reload (SIGHUP, or RELOAD on \
    the console) or a restart. An upgrade does what a restart does, except that addresses stay. Unknown keys are \
    told and ignored. Wrong values are errors.";

const EXAMPLE: &str = r#".Sh EXAMPLES
A configuration that serves the database app to the user app:
.Bd -literal -offset indent
[general]
host = "127.0.0.1"
port = 6432
admin_username = "admin"
admin_password = "change-me"

[pools.app]
server_host = "127.0.0.1"
server_port = 5432

[[pools.app.users]]
username = "app"
password = "SCRAM-SHA-256$4096:..."
pool_size = 20
.Ed
"#;

fn setting(out: &mut String, key: &Definition) {
    let _ = writeln!(out, ".It Cm {}", key.name);
    text(out, &key.doc.replace('`', ""));
    for fact in facts(key) {
        out.push_str(".br\n");
        text(out, &fact);
    }
}

// mdoc(7)

fn head(title: &str, section: u8) -> String {
    format!(
        ".\\\" Made from the program's own definitions: UPDATE_REFERENCE=1 cargo test --lib reference\n\
         .Dd {DATE}\n.Dt {title} {section}\n.Os\n"
    )
}

/// A sentence, with its full stop.
fn sentence(text: &str) -> String {
    match text.trim_end() {
        "" => String::new(),
        ended if ended.ends_with('.') => ended.to_owned(),
        open => format!("{open}."),
    }
}

/// Running text: each sentence on a line of its own, lines of less than 80 characters, nothing taken for a macro.
fn text(out: &mut String, text: &str) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line = String::new();
    for (index, word) in words.iter().enumerate() {
        if !line.is_empty() && line.len() + 1 + word.len() > 78 {
            write_line(out, &line);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        let starts = |next: &&str| next.starts_with(|c: char| c.is_ascii_uppercase() || c == '[');
        let ends = word.ends_with(['.', '?', '!']) || word.ends_with(".)") || word.ends_with(".\"");
        if ends && words.get(index + 1).is_none_or(starts) {
            write_line(out, &line);
            line.clear();
        }
    }
    if !line.is_empty() {
        write_line(out, &line);
    }
}

fn write_line(out: &mut String, line: &str) {
    if line.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    out.push_str(&line.replace('\\', "\\e"));
    out.push('\n');
}
