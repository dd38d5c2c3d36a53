//! Makes up the next step from a seed and from where the clients stand.
//!
//! The same seed makes the same sequence, as long as PostgreSQL answers the same.

use crate::arena::{Arena, Client};
use crate::conversation::Place;
use crate::excluded;
use crate::frontend::Front;
use crate::pooler::POOLS;
use crate::rng::Rng;
use crate::step::{Leave, Step};
use crate::texts::{self, Taste};

/// A sequence in the making.
pub struct Generator {
    rng: Rng,
    clients: usize,
    left: usize,
    upgrades: bool,
    session: bool,
    taste: Taste,
}

impl Generator {
    /// The sequence of this seed, and the number of the pool that it is for.
    pub fn new(seed: u64) -> (Self, usize) {
        let mut rng = Rng::new(seed);
        let pool = rng.below(POOLS.len());
        let clients = 2 + rng.below(3);
        let left = 6 + rng.below(40);
        let upgrades = rng.percent(8);
        let taste = Taste::new(&mut rng);
        (
            Self {
                rng,
                clients,
                left,
                upgrades,
                session: POOLS[pool].session,
                taste,
            },
            pool,
        )
    }

    /// The next step; none at the end.
    pub fn step(&mut self, arena: &Arena<'_>) -> Option<Step> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        if self.left == 0 || self.rng.percent(2) {
            return Some(Step::Probe);
        }
        if self.upgrades && self.rng.percent(8) {
            return Some(Step::Upgrade);
        }
        loop {
            let number = self.rng.below(self.clients);
            let Some(client) = &arena.clients[number] else {
                let settings = texts::startup(&mut self.rng, &self.taste, number);
                if arena.may_wait(number) && excluded::settings_are_untried(&settings) {
                    continue;
                }
                return Some(Step::Login(number, settings));
            };
            if client.sleeps {
                return Some(Step::Cancel(number));
            }
            if client.conversation.at_rest() && self.rng.percent(1) {
                return Some(Step::Cancel(number));
            }
            let chance = if arena.pool.session { 12 } else { 4 };
            if self.rng.percent(chance) {
                return Some(Step::Leave(number, self.leave(client, number)));
            }
            let place = client.conversation.place();
            let calm = matches!(place, Place::Idle | Place::Transaction);
            if calm && client.satisfied() && !arena.may_wait(number) && self.rng.percent(2) {
                return Some(Step::Send(
                    number,
                    vec![Front::Query("select pg_sleep(60)".into())],
                ));
            }
            return Some(Step::Send(number, self.packet(place, number)));
        }
    }

    fn leave(&mut self, client: &Client, number: usize) -> Leave {
        match self.rng.below(8) {
            0..=2 => Leave::Terminate(Vec::new()),
            3 => {
                let messages = self.packet(client.conversation.place(), number);
                Leave::Terminate(messages)
            }
            4 if client.conversation.at_rest() => Leave::Run(self.harmless(number)),
            _ => {
                let bytes = match self.packet(Place::Idle, number).first() {
                    Some(message) => message.bytes(),
                    None => Vec::new(),
                };
                let cut = self.rng.below(bytes.len());
                Leave::Abrupt(bytes[..cut].to_vec(), self.rng.percent(60))
            }
        }
    }

    /// Messages that change nothing that is stored.
    fn harmless(&mut self, number: usize) -> Vec<Front> {
        let mut all = Vec::new();
        for _ in 0..=self.rng.below(3) {
            let (text, durable) = texts::any(&mut self.rng, &self.taste, number, self.session);
            if durable {
                continue;
            }
            if self.rng.percent(50) {
                all.push(Front::Query(text));
            } else {
                all.push(Front::Parse(String::new(), text));
                all.push(Front::Bind(String::new(), String::new(), Vec::new()));
                all.push(Front::Execute(String::new(), 0));
                if self.rng.percent(70) {
                    all.push(Front::Sync);
                }
            }
        }
        all
    }

    /// One write of a client.
    fn packet(&mut self, place: Place, number: usize) -> Vec<Front> {
        let mut all = Vec::new();
        match place {
            Place::CopyingIn if self.rng.percent(10) => {
                let message = match self.rng.below(5) {
                    0 => self.call(number),
                    1 => {
                        Front::Query(texts::any(&mut self.rng, &self.taste, number, self.session).0)
                    }
                    _ => self.piece(number),
                };
                all.push(message);
            }
            Place::CopyingIn => self.copy_data(&mut all),
            Place::Skipping if self.rng.percent(50) => all.push(Front::Sync),
            Place::Batch if self.rng.percent(40) => all.push(Front::Sync),
            Place::Transaction | Place::Failed if self.rng.percent(25) => {
                all.push(Front::Query(texts::end(&mut self.rng, number)));
            }
            _ => {}
        }
        if all.is_empty() || self.rng.percent(15) {
            for _ in 0..=self.rng.below(3) {
                self.some(&mut all, number);
            }
        }
        all
    }

    fn some(&mut self, all: &mut Vec<Front>, number: usize) {
        match self.rng.below(100) {
            0..=34 => {
                let text = texts::any(&mut self.rng, &self.taste, number, self.session).0;
                let copies = text.contains("from stdin");
                all.push(Front::Query(text));
                if copies && self.rng.percent(60) {
                    self.copy_data(all);
                }
            }
            35..=64 => self.batch(all, number),
            65..=84 => {
                for _ in 0..=self.rng.below(3) {
                    let message = self.piece(number);
                    all.push(message);
                }
            }
            85..=88 => all.push(self.call(number)),
            89..=93 => all.push(Front::Sync),
            94 => {
                // Rows of a COPY are on their way when the next message is sent.
                all.push(Front::Query("copy t to stdout".into()));
                let message = match self.rng.below(6) {
                    0 => self.call(number),
                    1 => self.stray(),
                    _ => self.piece(number),
                };
                all.push(message);
            }
            95..=96 => {
                // COPY with Syncs on their way.
                let text = texts::copy(&mut self.rng, number);
                if self.rng.percent(50) {
                    all.push(Front::Query(text));
                } else {
                    all.push(Front::Parse(String::new(), text));
                    all.push(Front::Bind(String::new(), String::new(), Vec::new()));
                    all.push(Front::Execute(String::new(), 0));
                    if self.rng.percent(70) {
                        all.push(Front::Sync);
                    }
                }
                self.copy_data(all);
                if self.rng.percent(50) {
                    all.push(Front::Sync);
                }
            }
            _ => {
                let message = self.stray();
                all.push(message);
            }
        }
    }

    /// A batch as drivers send it, more or less.
    fn batch(&mut self, all: &mut Vec<Front>, number: usize) {
        let name = self.name();
        let portal = if self.rng.percent(85) {
            String::new()
        } else {
            "p0".to_string()
        };
        if self.rng.percent(65) {
            if !name.is_empty() && self.rng.percent(40) {
                all.push(Front::Close(b'S', name.clone()));
            }
            let text = texts::prepared(&mut self.rng, &self.taste, number, self.session);
            let values = text
                .matches('$')
                .filter(|_| !text.contains("$$"))
                .count()
                .min(2);
            all.push(Front::Parse(name.clone(), text));
            if self.rng.percent(30) {
                all.push(Front::Describe(b'S', name.clone()));
            }
            let values = if self.rng.percent(92) {
                values
            } else {
                self.rng.below(3)
            };
            all.push(Front::Bind(portal.clone(), name, self.values(values)));
        } else {
            let values = self.rng.below(2);
            all.push(Front::Bind(portal.clone(), name, self.values(values)));
        }
        if self.rng.percent(40) {
            all.push(Front::Describe(b'P', portal.clone()));
        }
        let limit = if self.rng.percent(80) { 0 } else { 1 };
        all.push(Front::Execute(portal.clone(), limit));
        if limit > 0 && self.rng.percent(50) {
            all.push(Front::Execute(portal, 1));
        }
        match self.rng.below(10) {
            0..=6 => all.push(Front::Sync),
            7 => all.push(Front::Flush),
            _ => {}
        }
    }

    /// A message of the extended protocol by itself.
    fn piece(&mut self, number: usize) -> Front {
        let portal = if self.rng.percent(80) {
            String::new()
        } else {
            "p0".to_string()
        };
        let name = self.name();
        match self.rng.below(12) {
            0 | 1 => Front::Parse(
                name,
                texts::prepared(&mut self.rng, &self.taste, number, self.session),
            ),
            2 | 3 => {
                let values = self.rng.below(2);
                Front::Bind(portal, name, self.values(values))
            }
            4 => Front::Describe(b'S', name),
            5 => Front::Describe(b'P', portal),
            6 | 7 => Front::Execute(portal, [0, 0, 1, 2][self.rng.below(4)]),
            8 => Front::Close(b'S', name),
            9 => Front::Close(b'P', portal),
            10 => Front::Flush,
            _ => Front::Sync,
        }
    }

    fn stray(&mut self) -> Front {
        match self.rng.below(8) {
            0 | 1 => Front::Flush,
            2 | 3 => Front::Data(b"1\tstray\n".to_vec()),
            4 => Front::Done,
            5 => Front::Fail("stray".into()),
            6 => Front::Describe(b'Y', String::new()),
            _ => Front::Close(b'Y', String::new()),
        }
    }

    fn copy_data(&mut self, all: &mut Vec<Front>) {
        for _ in 0..self.rng.below(4) {
            let data = match self.rng.below(10) {
                0..=4 => format!("{}\tcopied\n", self.rng.below(1000)),
                5 | 6 => "bad\n".into(),
                7 => (0..800).map(|row| format!("{row}\trow\n")).collect(),
                8 => "5\tha".into(),
                _ => "\\.\n".into(),
            };
            let times = if self.rng.percent(5) { 20 } else { 1 };
            for _ in 0..times {
                all.push(Front::Data(data.clone().into_bytes()));
            }
        }
        match self.rng.below(12) {
            0..=5 => {
                all.push(Front::Done);
                if self.rng.percent(60) {
                    all.push(Front::Sync);
                }
            }
            6 | 7 => all.push(Front::Fail("enough".into())),
            8 => all.push(Front::Sync),
            9 => all.push(Front::Flush),
            _ => {}
        }
    }

    fn call(&mut self, number: usize) -> Front {
        let some = |values: &[&str]| {
            values
                .iter()
                .map(|value| Some((*value).to_string()))
                .collect()
        };
        match self.rng.below(8) {
            0 | 1 => Front::Call(177, some(&["2", "3"])),
            2 => Front::Call(2077, some(&["timezone"])),
            3 => Front::Call(2078, some(&["work_mem", "2MB", "f"])),
            4 => Front::Call(2880, some(&[&format!("40{number}")])),
            5 => Front::Call(177, some(&["x", "3"])),
            6 => Front::Call(154, some(&["1", "0"])),
            _ => Front::Call(1, Vec::new()),
        }
    }

    fn name(&mut self) -> String {
        ["", "", "", "s0", "s1", "s2"][self.rng.below(6)].to_string()
    }

    fn values(&mut self, count: usize) -> Vec<Option<String>> {
        (0..count)
            .map(|_| match self.rng.below(12) {
                0 => None,
                1 => Some("x".into()),
                2 => Some("2024-01-01".into()),
                _ => Some(self.rng.below(10).to_string()),
            })
            .collect()
    }
}
