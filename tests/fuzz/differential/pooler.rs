//! The program under test: configured, started, upgraded, stopped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::connection::Address;

/// A pool of the pooler, and what a sequence has to know of it.
#[derive(Debug)]
pub struct Pool {
    /// The name that clients connect to.
    pub name: &'static str,
    /// Whether a client keeps its server connection until it leaves.
    pub session: bool,
    /// How many server connections there are.
    pub size: usize,
    /// Further settings.
    settings: &'static str,
}

const SMALL: &str =
    "server_prepared_statements_cache_size = 1\nprepared_statements_cache_size = 2\n";

/// The pools. Each is a place for sequences of its own kind.
pub const POOLS: [Pool; 6] = [
    Pool {
        name: "transaction1",
        session: false,
        size: 1,
        settings: "",
    },
    Pool {
        name: "transaction2",
        session: false,
        size: 2,
        settings: "",
    },
    Pool {
        name: "session1",
        session: true,
        size: 1,
        settings: "",
    },
    Pool {
        name: "session2",
        session: true,
        size: 2,
        settings: "",
    },
    Pool {
        name: "small1",
        session: false,
        size: 1,
        settings: SMALL,
    },
    Pool {
        name: "small2",
        session: false,
        size: 2,
        settings: SMALL,
    },
];

/// A running pooler.
pub struct Pooler {
    directory: PathBuf,
    /// Its port.
    pub port: u16,
    child: Child,
    pid: i32,
    stopped: bool,
}

impl Pooler {
    /// Starts one that keeps its files in this directory. Another program may take the port that was free.
    pub fn start(
        program: &str,
        directory: &Path,
        server: &Path,
        port: u16,
        verifier: &str,
    ) -> Result<Self, String> {
        let mut last = String::new();
        for _ in 0..5 {
            match Self::start_once(program, directory, server, port, verifier) {
                Ok(pooler) => return Ok(pooler),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Starts one that keeps its files in this directory.
    fn start_once(
        program: &str,
        directory: &Path,
        server: &Path,
        server_port: u16,
        verifier: &str,
    ) -> Result<Self, String> {
        let directory = directory.join("pooler");
        fs::create_dir_all(&directory).map_err(|why| why.to_string())?;
        let port = free_port()?;
        let mut text = format!(
            "[general]\nhost = \"127.0.0.1\"\nport = {port}\nadmin_username = \"admin\"\n\
             admin_password = \"admin-secret\"\nquery_wait_timeout = \"60s\"\nunix_socket_dir = \"{}\"\n\
             [general.pg_hba]\ncontent = \"host all all 127.0.0.1/32 trust\\nlocal all all trust\"\n",
            directory.display()
        );
        for pool in &POOLS {
            text += &format!(
                "[pools.{}]\nserver_host = \"{}\"\nserver_port = {server_port}\nserver_database = \"pooled\"\n\
                 application_name = \"\"\n\
                 pool_mode = \"{}\"\n{}\n[[pools.{}.users]]\nusername = \"app\"\npassword = \"{verifier}\"\npool_size = {}\n",
                pool.name,
                server.display(),
                if pool.session {
                    "session"
                } else {
                    "transaction"
                },
                pool.settings,
                pool.name,
                pool.size
            );
        }
        let config = directory.join("pg_doorman.toml");
        fs::write(&config, text).map_err(|why| why.to_string())?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("log"));
        let log = log.map_err(|why| why.to_string())?;
        let also = log.try_clone().map_err(|why| why.to_string())?;
        let child = Command::new(program)
            .arg(&config)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .spawn()
            .map_err(|why| format!("{program}: {why}"))?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let mut pooler = Self {
            directory,
            port,
            child,
            pid,
            stopped: false,
        };
        let Address::Unix(socket) = pooler.unix() else {
            return Err("no socket".into());
        };
        let mut exited = false;
        let listens = || {
            exited = pooler.child.try_wait().is_ok_and(|status| status.is_some());
            exited || std::os::unix::net::UnixStream::connect(&socket).is_ok()
        };
        if within(Duration::from_secs(20), listens) && !exited {
            Ok(pooler)
        } else {
            pooler.stop();
            Err(format!("the pooler does not start:\n{}", pooler.log()))
        }
    }

    /// Its Unix socket.
    pub fn unix(&self) -> Address {
        Address::Unix(self.directory.join(format!(".s.PGSQL.{}", self.port)))
    }

    /// Its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default())
            .into_owned()
    }

    /// Has another process take over. Returns when it has.
    pub fn upgrade(&mut self) -> Result<(), String> {
        let count = |log: &str| log.matches("upgrade complete").count();
        let before = count(&self.log());
        kill(Pid::from_raw(self.pid), Signal::SIGUSR2)
            .map_err(|why| format!("the pooler is gone: {why}"))?;
        if !within(Duration::from_secs(20), || count(&self.log()) > before) {
            return Err(format!("the upgrade does not end:\n{}", self.end_of_log()));
        }
        let old = self.pid;
        let _ = self.child.try_wait();
        let config = self.directory.join("pg_doorman.toml");
        let mut next = None;
        within(Duration::from_secs(5), || {
            // The old process is to be gone: a signal that comes before is for whoever serves then.
            let all = processes(&config);
            next = all
                .first()
                .copied()
                .filter(|pid| all.len() == 1 && *pid != old);
            next.is_some()
        });
        self.pid = next.ok_or("no process has taken over")?;
        Ok(())
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Whether it has panicked, or is gone.
    pub fn trouble(&mut self) -> Option<String> {
        if self.log().contains("panicked at") {
            return Some(format!("a thread panicked:\n{}", self.end_of_log()));
        }
        kill(Pid::from_raw(self.pid), None)
            .err()
            .map(|why| format!("the pooler is gone: {why}"))
    }

    /// Ends it, whatever it does.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let config = self.directory.join("pg_doorman.toml");
        for pid in processes(&config) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The processes that were started with this configuration.
fn processes(config: &Path) -> Vec<i32> {
    let config = config.display().to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<_> = line.split('\0').collect();
            words.contains(&config.as_str()) && !words.contains(&"-t")
        })
        .collect()
}

/// A port nobody listens on at this moment.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|why| why.to_string())?;
    listener
        .local_addr()
        .map(|address| address.port())
        .map_err(|why| why.to_string())
}

fn within(most: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
