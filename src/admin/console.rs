//! The console: carries its commands out.

use std::sync::Arc;

use super::commands::Command;
use super::show;
use super::table::Table;
use crate::pool::pool::Pool;
use crate::session::client::Client;
use crate::session::console::{Answer, Console, Rights};
use crate::session::orders::Order;
use crate::session::shared::Shared;
use crate::wire::backend;
use crate::wire::error::{Severity, error_response};
use crate::wire::sqlstate::{self, SqlState};

/// What only the process as a whole can do.
pub trait Process: Send + Sync {
    /// Reads the configuration again and puts it in force.
    ///
    /// # Errors
    /// Why the old one stays in force.
    fn reload(&self) -> Result<(), String>;

    /// Begins an orderly shutdown.
    fn shut_down(&self);

    /// Carries out, soon, what concerns the process and was asked of the other one of a hand-over.
    fn obey(&self, order: Order);

    /// Begins an upgrade: a new process takes over. The session that asked gets the outcome.
    fn upgrade(&self, requester: Client);

    /// The log filter in force.
    fn log_filter(&self) -> String;

    /// Changes the log filter.
    ///
    /// # Errors
    /// What is wrong with it.
    fn set_log_filter(&self, filter: &str) -> Result<(), String>;
}

/// The console of this process.
pub struct AdminConsole {
    shared: Arc<Shared>,
    process: Box<dyn Process>,
}

/// An error the console answers with.
struct ConsoleError(SqlState, String);

impl AdminConsole {
    /// The console of the process with this shared state.
    pub fn new(shared: Arc<Shared>, process: Box<dyn Process>) -> AdminConsole {
        AdminConsole { shared, process }
    }

    fn execute(&self, command: Command, out: &mut Vec<u8>) -> Result<Answer, ConsoleError> {
        match command {
            Command::Show(what) if what == "log_level" => {
                let mut table = Table::new("log_level");
                table.row(vec![self.process.log_filter()]);
                table.write(out, "SHOW");
            }
            Command::Show(what) => match show::show(&self.shared, &what) {
                Some(table) => table.write(out, "SHOW"),
                None => {
                    return Err(ConsoleError(
                        sqlstate::SYSTEM_ERROR,
                        "Unsupported SHOW query against the admin database".to_owned(),
                    ));
                }
            },
            Command::Reload => {
                self.process
                    .reload()
                    .map_err(|why| ConsoleError(sqlstate::SYSTEM_ERROR, why))?;
                backend::command_complete(out, "RELOAD");
            }
            Command::Pause(name) => {
                self.for_each_pool(name.as_deref(), |pool| {
                    pool.pause();
                    log::info!("PAUSE: paused pool {}@{}", pool.user, pool.database);
                })?;
                self.release_own();
                self.shared.pass_order_on(Order::Pause(name));
                return Ok(Answer::Underway);
            }
            Command::Resume(name) => {
                self.for_each_pool(name.as_deref(), |pool| {
                    pool.resume();
                    log::info!("RESUME: resumed pool {}@{}", pool.user, pool.database);
                })?;
                self.shared.pass_order_on(Order::Resume(name));
                backend::command_complete(out, "RESUME");
            }
            Command::Reconnect(name) => {
                self.for_each_pool(name.as_deref(), |pool| {
                    pool.reconnect();
                    log::info!(
                        "RECONNECT: reconnected pool {}@{}",
                        pool.user,
                        pool.database
                    );
                })?;
                self.release_own();
                self.shared.pass_order_on(Order::Reconnect(name));
                backend::command_complete(out, "RECONNECT");
            }
            Command::Shutdown => {
                self.process.shut_down();
                let mut table = Table::new("success");
                table.row(vec!["t".to_owned()]);
                table.write(out, "SHUTDOWN");
            }
            Command::Upgrade => return Ok(Answer::Later),
            Command::SetLogLevel(filter) => {
                self.process
                    .set_log_filter(&filter)
                    .map_err(|why| ConsoleError(sqlstate::SYNTAX_ERROR, why))?;
                self.shared.pass_order_on(Order::SetLogLevel(filter));
                backend::command_complete(out, "SET");
            }
            Command::SetOther(name) => {
                return Err(ConsoleError(
                    sqlstate::SYNTAX_ERROR,
                    format!("Unknown SET parameter: {name}. Supported: log_level"),
                ));
            }
            Command::Unknown => {
                return Err(ConsoleError(
                    sqlstate::SYSTEM_ERROR,
                    "Unsupported query against the admin database".to_owned(),
                ));
            }
        }
        Ok(Answer::Given)
    }

    /// Whether server connections that PAUSE waits for are still open. Otherwise its answer is appended.
    fn pauses(&self, database: Option<&str>, out: &mut Vec<u8>) -> bool {
        // While sessions move, no process knows of all connections.
        if self.shared.all_are_handed_over() {
            return true;
        }
        let (mut open, mut resumed) = (0, false);
        for pool in self.shared.pools.all() {
            if database.is_none_or(|name| name == pool.database) {
                let now = pool.snapshot();
                open += now.total;
                resumed |= !now.paused;
            }
        }
        if resumed {
            let words = "RESUME was given before all server connections were released";
            let code = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
            error_response(out, Severity::Error, code, words);
            return false;
        }
        if open == 0 {
            backend::command_complete(out, "PAUSE");
        }
        open > 0
    }

    /// Closes the connections of `auth_query` that lie idle. They are made again when they are needed.
    fn release_own(&self) {
        for pool in self.shared.pools.own() {
            pool.release();
        }
    }

    /// Does something to the pools of one database, or to all.
    fn for_each_pool(
        &self,
        database: Option<&str>,
        action: impl Fn(&Arc<Pool>),
    ) -> Result<(), ConsoleError> {
        let mut any = database.is_none();
        for pool in self.shared.pools.all() {
            if database.is_none_or(|name| name == pool.database) {
                action(&pool);
                any = true;
            }
        }
        match database {
            Some(name) if !any => Err(ConsoleError(
                sqlstate::INVALID_CATALOG_NAME,
                format!("No pool for database \"{name}\""),
            )),
            _ => Ok(()),
        }
    }
}

impl Console for AdminConsole {
    fn obey(&self, order: Order) {
        log::info!("Got {order} from the other process of the upgrade");
        let all = |name: Option<String>, action: fn(&Arc<Pool>)| {
            // Its pools need not be the same.
            let _ = self.for_each_pool(name.as_deref(), action);
        };
        match order {
            Order::Pause(name) => all(name, |pool| pool.pause()),
            Order::Resume(name) => all(name, |pool| pool.resume()),
            Order::Reconnect(name) => all(name, |pool| pool.reconnect()),
            Order::SetLogLevel(filter) => {
                if let Err(error) = self.process.set_log_filter(&filter) {
                    log::warn!("{error}");
                }
            }
            Order::Reload | Order::ShutDown | Order::Stop => self.process.obey(order),
        }
    }

    fn answer(&self, command: &str, rights: Rights, out: &mut Vec<u8>) -> Answer {
        let command = Command::parse(command);
        let done = if rights == Rights::Everything || matches!(command, Command::Show(_)) {
            self.execute(command, out)
        } else {
            Err(ConsoleError(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                "permission denied: stats_username may only SHOW".to_owned(),
            ))
        };
        done.unwrap_or_else(|ConsoleError(code, words)| {
            error_response(out, Severity::Error, code, &words);
            Answer::Given
        })
    }

    fn is_underway(&self, command: &str, out: &mut Vec<u8>) -> bool {
        match Command::parse(command) {
            Command::Pause(name) => self.pauses(name.as_deref(), out),
            _ => false,
        }
    }

    fn upgrade(&self, requester: Client) {
        self.process.upgrade(requester);
    }
}
