//! A PostgreSQL of the fuzzer's own, with one database for each side.
//!
//! The cluster lies in a temporary directory and is removed at the end. Where root runs the fuzzer, user
//! postgres runs the cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::connection::{Address, Connection};
use crate::reply::Reply;

/// How long the superuser's own commands may take.
const LONG: Duration = Duration::from_secs(20);

/// The databases: what clients of PostgreSQL use, and what those of the pooler use.
pub const DATABASES: [&str; 2] = ["direct", "pooled"];

/// How many clients a sequence has at most. Each has a schema of its own.
pub const CLIENTS: usize = 4;

const SETTINGS: &str = "
listen_addresses = ''
max_connections = 200
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
jit = off
shared_buffers = 64MB
timezone = 'UTC'
lc_messages = 'C'
max_prepared_transactions = 0
log_min_messages = log
";

const ROLES: &str = "set password_encryption = 'scram-sha-256'; create role team; \
     create role app login password 'app-secret' in role team; \
     create database direct owner app; create database pooled owner app";

/// What each client's schema has in it.
const OBJECTS: &str = "
create table t (a int, b text);
insert into t values (1, 'one'), (2, 'two'), (3, null);
create table z (a int4);
insert into z values (7), (8);
create table discarded (a int, b text);
create table k (id int generated always as identity, v text unique);
create type mood as enum ('sad', 'ok');
create table m (at mood);
create view v as select a, count(*) as n from t group by a;
create table trig (a int);
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no rows here'; end $$;
create trigger refuse before insert on trig for each statement execute function refuse();
create function setter(value text) returns text language sql
  as $$ select set_config('extra_float_digits', value, true) $$;
create procedure proc(inout x int) language plpgsql as $$ begin x := x + 1; end $$;
";

/// How the contents of a client's schema become what they were.
const CONTENTS: &str = "
delete from t; insert into t values (1, 'one'), (2, 'two'), (3, null);
delete from z; insert into z values (7), (8);
delete from discarded; delete from k; delete from m; delete from trig;
alter sequence k_id_seq restart;
";

/// The cluster.
pub struct Postgres {
    /// Where it keeps its files; its Unix socket is there.
    pub directory: PathBuf,
    /// The port, also part of the socket's name.
    pub port: u16,
    admin: Vec<Connection>,
    /// Whether objects may have been made, changed or dropped since the last reset.
    pub changed: bool,
}

impl Postgres {
    /// Makes a cluster in this directory and starts it.
    pub fn start(directory: &Path) -> Result<Self, String> {
        let directory = directory.join("postgres");
        fs::create_dir_all(&directory).map_err(|why| why.to_string())?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
            .map_err(|why| why.to_string())?;
        if nix::unistd::geteuid().is_root() {
            let owner = nix::unistd::User::from_name("postgres")
                .ok()
                .flatten()
                .ok_or("there is no user postgres")?;
            nix::unistd::chown(&directory, Some(owner.uid), Some(owner.gid))
                .map_err(|why| why.to_string())?;
        }
        let mut cluster = Self {
            directory,
            port: 5432,
            admin: Vec::new(),
            changed: true,
        };
        let data = cluster.data();
        cluster.run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ],
        )?;
        let settings = format!(
            "{SETTINGS}port = {}\nunix_socket_directories = '{}'\n",
            cluster.port,
            cluster.directory.display()
        );
        let conf = Path::new(&data).join("postgresql.conf");
        let all = fs::read_to_string(&conf).map_err(|why| why.to_string())? + &settings;
        fs::write(&conf, all).map_err(|why| why.to_string())?;
        let log = format!("{}/log", cluster.directory.display());
        cluster.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-s", "start"])?;
        let mut first = cluster.superuser("postgres")?;
        for sql in ROLES.split(';') {
            answered(&first.ask(sql, LONG))?;
        }
        for database in DATABASES {
            let mut admin = cluster.superuser(database)?;
            answered(&admin.ask(
                "create table z (a text); insert into z values ('seven'); grant select on z to public",
                LONG,
            ))?;
            cluster.admin.push(admin);
        }
        Ok(cluster)
    }

    fn data(&self) -> String {
        format!("{}/data", self.directory.display())
    }

    /// Its Unix socket.
    pub fn address(&self) -> Address {
        Address::Unix(self.directory.join(format!(".s.PGSQL.{}", self.port)))
    }

    fn superuser(&self, database: &str) -> Result<Connection, String> {
        let words = [("user", "postgres"), ("database", database)]
            .map(|(name, value)| (name.into(), value.into()));
        let mut connection =
            Connection::open(&self.address(), &words).map_err(|why| why.to_string())?;
        if connection.await_ready(0, LONG) && !connection.closed {
            Ok(connection)
        } else {
            Err("no login".into())
        }
    }

    /// The verifier of app's password, as a pooler's configuration takes it.
    pub fn verifier(&mut self) -> String {
        let rows = self.admin[0].ask(
            "select rolpassword from pg_authid where rolname = 'app'",
            LONG,
        );
        let row = rows.iter().find(|reply| reply.kind == b'D');
        row.map(|row| String::from_utf8_lossy(&row.body[6..]).into_owned())
            .unwrap_or_default()
    }

    /// Makes both databases as they are at the beginning of every sequence. Ends sessions that are left over.
    pub fn reset(&mut self) -> Result<(), String> {
        for admin in &mut self.admin {
            admin.replies.clear();
            admin.asides.clear();
            answered(&admin.ask(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                 where datname = current_database() and usename = 'app'",
                LONG,
            ))?;
            let mut sql = String::from("set client_min_messages = error; set role app;");
            if !self.changed {
                for client in 0..CLIENTS {
                    sql += &format!("set search_path = c{client};{CONTENTS}");
                }
                sql += "reset all; reset role;";
                answered(&admin.ask(&sql, LONG))?;
                continue;
            }
            for client in 0..CLIENTS {
                sql += &format!(
                    "drop schema if exists c{client} cascade; create schema c{client}; set search_path = c{client};{OBJECTS}"
                );
            }
            sql += "reset all; reset role;";
            answered(&admin.ask(&sql, LONG))?;
        }
        self.changed = false;
        Ok(())
    }

    /// Whether PostgreSQL itself has crashed. If so, it has recovered when this returns.
    pub fn has_crashed(&mut self) -> Result<bool, String> {
        let sound = |admin: &mut Connection| {
            admin.replies.clear();
            answered(&admin.ask("select 1", LONG)).is_ok()
        };
        if self.admin.iter_mut().all(sound) {
            return Ok(false);
        }
        self.changed = true;
        for _ in 0..200 {
            let admin: Result<Vec<_>, _> = DATABASES
                .map(|name| self.superuser(name))
                .into_iter()
                .collect();
            if let Ok(admin) = admin {
                self.admin = admin;
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("PostgreSQL has crashed and does not come back".into())
    }

    /// What it has said about its last crash.
    pub fn last_crash(&self) -> String {
        let all = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        let is_word = |line: &&str| line.contains("was terminated") || line.contains("PANIC");
        let at = lines.iter().rposition(is_word).unwrap_or_default();
        lines[at..]
            .iter()
            .take(3)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// How many of the pooler's sessions sleep.
    pub fn asleep(&mut self) -> usize {
        let admin = &mut self.admin[1];
        admin.replies.clear();
        let rows = admin.ask(
            "select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
            LONG,
        );
        rows.iter().filter(|reply| reply.kind == b'D').count()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let path = bin_dir()
            .ok_or("PostgreSQL is not installed")?
            .join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let status = command
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|why| why.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{program} failed: {status}"))
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.admin.clear();
        let data = self.data();
        let _ = self.run("pg_ctl", &["-D", &data, "-m", "immediate", "-s", "stop"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory of PostgreSQL's programs: on Debian it is not in PATH.
fn bin_dir() -> Option<PathBuf> {
    let version = |path: &Path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse::<u32>().ok())
    };
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort_by_key(|path| version(path));
    let debian = found.into_iter().rev().map(|path| path.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian
        .chain(std::env::split_paths(&path))
        .find(|directory| directory.join("initdb").exists())
}

fn answered(replies: &[Reply]) -> Result<(), String> {
    match replies.iter().find(|reply| reply.kind == b'E') {
        Some(error) => Err(error.to_string()),
        None if replies.last().is_some_and(|reply| reply.kind == b'Z') => Ok(()),
        None => Err("no answer from PostgreSQL".into()),
    }
}
