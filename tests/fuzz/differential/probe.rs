//! What clients must find who come after a sequence: nothing of it.
//!
//! As many as the pool has server connections are asked at the same time, so that each connection is seen. The
//! same questions go to PostgreSQL directly, and the answers must be the same.

use std::time::Duration;

use crate::connection::{Address, Connection};
use crate::fault::Fault;
use crate::frontend::Front;
use crate::pooler::Pool;
use crate::postgres::{CLIENTS, DATABASES, Postgres};
use crate::reply::Oids;

const QUESTIONS: &[&str] = &[
    "begin",
    "select 900001",
    "select current_user, session_user, current_schemas(false)",
    "select name, setting from pg_settings where name !~ '^plpgsql' order by name",
    "select name from pg_prepared_statements where name !~ '^DOORMAN_'",
    "select mode, objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "select relname from pg_class where relnamespace = pg_my_temp_schema()",
    "select pg_listening_channels()",
    "select name from pg_cursors where name <> ''",
    "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'relation' and mode like '%Exclusive%'",
];

/// Compares what new clients find.
pub fn compare(
    postgres: &Postgres,
    pooled: &[Address; 2],
    pool: &'static Pool,
    oids: &mut Oids,
    limit: Duration,
) -> Result<(), Fault> {
    let mut open = Vec::new();
    for (number, address) in pooled.iter().enumerate().take(pool.size) {
        let settings: &[(&str, &str)] = if number == 0 {
            &[]
        } else {
            &[
                ("TimeZone", "Asia/Tokyo"),
                ("options", "-c search_path=public -c work_mem=3MB"),
            ]
        };
        let words = |database: &str| {
            let base = [("user", "app"), ("database", database)];
            base.iter()
                .chain(settings)
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect::<Vec<_>>()
        };
        let connect = |address: &Address, database: &str| {
            let fault = |why: String| Fault::new("probe: connect", why);
            let mut connection = Connection::open(address, &words(database))
                .map_err(|why| fault(why.to_string()))?;
            if !connection.await_ready(0, limit) {
                return Err(Fault::new("probe: hang", "a login hangs"));
            }
            Ok(connection)
        };
        let mut direct = connect(&postgres.address(), DATABASES[0])?;
        let mut through = connect(address, pool.name)?;
        ask(&mut direct, &mut through, number, oids, limit)?;
        open.push((direct, through));
    }
    for (direct, through) in &mut open {
        for connection in [direct, through] {
            let from = connection.replies.len();
            connection.send(
                &[
                    Front::Query("rollback".into()),
                    Front::Other(b'X', Vec::new()),
                ]
                .map(|message| message.bytes())
                .concat(),
            );
            if !connection.await_ready(from, limit) {
                return Err(Fault::new("probe: hang", "a rollback hangs"));
            }
        }
    }
    Ok(())
}

fn ask(
    direct: &mut Connection,
    through: &mut Connection,
    number: usize,
    oids: &mut Oids,
    limit: Duration,
) -> Result<(), Fault> {
    let mut questions: Vec<Front> = QUESTIONS
        .iter()
        .map(|sql| Front::Query((*sql).into()))
        .collect();
    if number == 0 {
        for client in 0..CLIENTS {
            for table in ["t", "z", "k", "discarded", "m"] {
                questions.push(Front::Query(format!("savepoint s; select * from c{client}.{table} order by 1, c{client}.{table}::text")));
                questions.push(Front::Query("rollback to s".into()));
            }
        }
    }
    questions.push(Front::Bind(String::new(), "s0".into(), Vec::new()));
    questions.push(Front::Sync);
    let bytes: Vec<u8> = questions.iter().flat_map(Front::bytes).collect();
    let wanted = questions
        .iter()
        .filter(|message| matches!(message, Front::Query(_) | Front::Sync))
        .count();
    for connection in [&mut *direct, &mut *through] {
        connection.send(&bytes);
    }
    for connection in [&mut *direct, &mut *through] {
        let start = std::time::Instant::now();
        let count = |connection: &Connection| {
            connection
                .replies
                .iter()
                .filter(|reply| reply.kind == b'Z')
                .count()
        };
        while count(connection) < wanted + 1 && !connection.closed {
            if start.elapsed() > limit {
                return Err(Fault::new(
                    "probe: hang",
                    format!(
                        "a new client hangs behind {:?}",
                        connection.replies.last().map(ToString::to_string)
                    ),
                ));
            }
            connection.wait(Duration::from_millis(50));
            connection.pump();
        }
    }
    for (at, wanted) in direct.replies.iter().enumerate() {
        match through.replies.get(at) {
            Some(got) if oids.equal(wanted, got) => {}
            got => {
                let column = direct.replies[..at]
                    .iter()
                    .filter(|reply| reply.kind == b'C')
                    .count();
                let got = got.map_or_else(|| "nothing".into(), ToString::to_string);
                return Err(Fault::new(
                    format!("probe: answer {column}"),
                    format!(
                        "a new client (number {number}) finds, in the answer to its question {column} ({:?})\nexpected {wanted}\ngot      {got}",
                        QUESTIONS.get(column)
                    ),
                ));
            }
        }
    }
    if direct.parameters == through.parameters {
        Ok(())
    } else {
        Err(Fault::new(
            "probe: parameters",
            format!(
                "expected {:?}\ngot      {:?}",
                direct.parameters, through.parameters
            ),
        ))
    }
}
