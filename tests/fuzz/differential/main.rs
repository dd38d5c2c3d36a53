//! The differential fuzzer: random sequences of the protocol's messages to PostgreSQL directly and through the
//! pooler, and whatever differs is a fault.
//!
//! `cargo run --example fuzz -- [--seed N] [--sequences N] [--seconds N] [--keep-going] [--limit SECONDS]
//! [--pool NAME] [--only-random] [--all-pools]`
//!
//! First come the known sequences, each in one pool or, with `--all-pools`, in all of them. Their time counts.
//!
//! `--pool session` plays only the sequences of pools whose names begin so. Each sequence has a seed: `--seed N --sequences 1` plays that one alone. It starts a PostgreSQL and a pooler
//! ($PG_DOORMAN, or the release build) in a temporary directory and removes them.

mod arena;
mod connection;
mod conversation;
mod coverage;
mod excluded;
mod fault;
mod frontend;
mod generate;
mod known;
mod leaving;
mod pooler;
mod postgres;
mod probe;
mod reply;
mod rng;
mod shrink;
mod step;
mod texts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use arena::Arena;
use coverage::Coverage;
use fault::Fault;
use generate::Generator;
use pooler::{POOLS, Pooler};
use postgres::Postgres;
use step::Step;

/// How long a fault is made shorter.
const SHRINKING: Duration = Duration::from_secs(25);

struct Options {
    seed: u64,
    sequences: u64,
    time: Duration,
    keep_going: bool,
    limit: Duration,
    program: String,
    pool: Option<String>,
    known: bool,
    all_pools: bool,
}

impl Options {
    fn read() -> Result<Self, String> {
        let program = std::env::var("PG_DOORMAN").unwrap_or_else(|_| {
            format!("{}/target/release/pg_doorman", env!("CARGO_MANIFEST_DIR"))
        });
        let mut options = Self {
            seed: 1,
            sequences: u64::MAX,
            time: Duration::from_secs(60),
            keep_going: false,
            limit: Duration::from_secs(4),
            program,
            pool: None,
            known: true,
            all_pools: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--pool" {
                options.pool = words.next();
                continue;
            }
            let mut number = || {
                let value = words.next().ok_or(format!("{word} needs a number"))?;
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{word}: {value} is no number"))
            };
            match word.as_str() {
                "--seed" => options.seed = number()?,
                "--sequences" => options.sequences = number()?,
                "--seconds" => options.time = Duration::from_secs(number()?),
                "--limit" => options.limit = Duration::from_secs(number()?),
                "--only-random" => options.known = false,
                "--all-pools" => options.all_pools = true,
                "--keep-going" => options.keep_going = true,
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Fuzzer {
    options: Options,
    postgres: Postgres,
    pooler: Pooler,
    verifier: String,
    coverage: Coverage,
    directory: Directory,
}

impl Fuzzer {
    fn start(options: Options) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("doorman-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|why| why.to_string())?;
        let directory = Directory(path);
        let mut postgres = Postgres::start(&directory.0)?;
        let verifier = postgres.verifier();
        let pooler = Pooler::start(
            &options.program,
            &directory.0,
            &postgres.directory,
            postgres.port,
            &verifier,
        )?;
        Ok(Self {
            options,
            postgres,
            pooler,
            verifier,
            coverage: Coverage::default(),
            directory,
        })
    }

    /// Starts the pooler anew.
    fn restart(&mut self) -> Result<(), String> {
        self.pooler.stop();
        let path: &Path = &self.directory.0;
        let _ = std::fs::remove_file(path.join("pooler/log"));
        self.pooler = Pooler::start(
            &self.options.program,
            path,
            &self.postgres.directory,
            self.postgres.port,
            &self.verifier,
        )?;
        Ok(())
    }

    /// Plays the sequence of a seed while it is made up. Returns its steps.
    fn generated(&mut self, seed: u64) -> Result<(&'static str, Vec<Step>, Option<Fault>), String> {
        self.postgres.reset()?;
        let (mut generator, pool) = Generator::new(seed);
        let mut arena = Arena::new(
            &mut self.postgres,
            &mut self.pooler,
            &POOLS[pool],
            &mut self.coverage,
            self.options.limit,
        );
        let mut steps = Vec::new();
        while let Some(step) = generator.step(&arena) {
            steps.push(step.clone());
            if let Err(fault) = arena.play(&step) {
                return Ok((POOLS[pool].name, steps, Some(fault)));
            }
        }
        Ok((POOLS[pool].name, steps, None))
    }

    /// Plays these steps on a fresh pooler.
    fn replayed(&mut self, pool: &str, steps: &[Step]) -> Result<Option<Fault>, String> {
        self.restart()?;
        self.postgres.reset()?;
        let pool = POOLS
            .iter()
            .find(|each| each.name == pool)
            .ok_or("no such pool")?;
        let mut coverage = Coverage::default();
        let limit = self.options.limit.min(Duration::from_millis(1500));
        let mut arena = Arena::new(
            &mut self.postgres,
            &mut self.pooler,
            pool,
            &mut coverage,
            limit,
        );
        Ok(steps
            .iter()
            .chain([&Step::Probe])
            .find_map(|step| arena.play(step).err()))
    }

    fn report(
        &mut self,
        seed: u64,
        pool: &str,
        steps: Vec<Step>,
        fault: Fault,
    ) -> Result<(), String> {
        println!(
            "FAULT: {} (seed {seed}, pool {pool})\n{}",
            fault.kind, fault.detail
        );
        let log = self.pooler.end_of_log();
        let length = steps.len();
        let (mut last, kind) = (None, fault.kind);
        let mut trouble = None;
        let steps = shrink::shrink(steps, SHRINKING, |steps| match self.replayed(pool, steps) {
            Ok(Some(fault)) if fault.kind == kind => {
                last = Some(fault);
                true
            }
            Ok(_) => false,
            Err(why) => {
                trouble = Some(why);
                false
            }
        });
        if let Some(why) = trouble {
            println!("(while it was made shorter: {why})");
        }
        match &last {
            Some(fault) => println!(
                "shrunk from {length} to {} steps:\n{}",
                steps.len(),
                fault.detail
            ),
            None => println!("it does not fail again by itself; the whole sequence:"),
        }
        for step in &steps {
            println!("  {step}");
        }
        println!("end of the pooler's log:\n{log}\n");
        self.restart()
    }

    /// Plays the sequences that once found a fault. Returns whether all is well.
    fn known(&mut self) -> Result<bool, String> {
        let (all, mut well) = (known::sequences(), true);
        for (turn, pool) in POOLS.iter().enumerate() {
            // Each at its turn, so that sequences of one kind come to different pools.
            let in_pool = |number: usize| self.options.all_pools || number % POOLS.len() == turn;
            let chosen: Vec<_> = (all.iter().enumerate())
                .filter(|(number, _)| in_pool(*number))
                .collect();
            for (_, (name, steps)) in chosen {
                self.postgres.reset()?;
                let mut arena = Arena::new(
                    &mut self.postgres,
                    &mut self.pooler,
                    pool,
                    &mut self.coverage,
                    self.options.limit,
                );
                let fault = steps
                    .iter()
                    .chain([&Step::Probe])
                    .find_map(|step| arena.play(step).err());
                let Some(fault) = fault else { continue };
                well = false;
                println!(
                    "FAULT: {name}: {} (pool {})\n{}",
                    fault.kind, pool.name, fault.detail
                );
                for step in steps {
                    println!("  {step}");
                }
                self.restart()?;
            }
        }
        let pools = match self.options.all_pools {
            true => "all pools",
            false => "one pool each",
        };
        println!("{} known sequences in {pools}", all.len());
        Ok(well)
    }

    fn run(&mut self) -> Result<bool, String> {
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut played = 0;
        let start = Instant::now();
        if self.options.known && !self.known()? && !self.options.keep_going {
            return Ok(false);
        }
        println!("first seed: {}", self.options.seed);
        while played < self.options.sequences && start.elapsed() < self.options.time {
            let seed = self.options.seed + played;
            played += 1;
            if self
                .options
                .pool
                .as_ref()
                .is_some_and(|pool| !POOLS[Generator::new(seed).1].name.starts_with(pool))
            {
                continue;
            }
            let (pool, steps, fault) = self.generated(seed)?;
            let Some(fault) = fault else { continue };
            let crashed = self.postgres.has_crashed();
            if !matches!(crashed, Ok(false)) {
                println!("PostgreSQL itself has crashed: seed {seed} (pool {pool}) is passed over");
                println!("{}", self.postgres.last_crash());
                steps.iter().for_each(|step| println!("  {step}"));
                crashed?;
                self.restart()?;
                continue;
            }
            let known = kinds
                .entry(format!("{} in {pool}", fault.kind))
                .or_insert((0, seed));
            known.0 += 1;
            if known.0 == 1 {
                self.report(seed, pool, steps, fault)?;
            } else {
                self.restart()?;
            }
            if !self.options.keep_going {
                break;
            }
        }
        println!("{}", self.coverage);
        println!("never sent: {}", self.coverage.missing().join(", "));
        println!("not compared:");
        for (what, why) in excluded::EXCLUDED {
            println!("  {what}: {why}");
        }
        println!(
            "{played} random sequences in {:.0} s, {} kinds of faults",
            start.elapsed().as_secs_f64(),
            kinds.len()
        );
        for (kind, (times, seed)) in &kinds {
            println!("  {times} times, first with --seed {seed}: {kind}");
        }
        Ok(kinds.is_empty())
    }
}

fn main() -> ExitCode {
    let outcome = Options::read()
        .and_then(Fuzzer::start)
        .and_then(|mut fuzzer| fuzzer.run());
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("the fuzzer cannot go on: {why}");
            ExitCode::from(2)
        }
    }
}
