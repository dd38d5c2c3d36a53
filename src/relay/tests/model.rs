//! Random scripts of several clients that share server connections, cut anywhere, against a small model of
//! PostgreSQL: each client gets exactly what it would get from a server of its own, and nobody's leaving
//! is noticed by the others.

use std::collections::HashMap;

use super::messages::*;
use super::*;

/// A backend, as far as the protocol goes. A statement's text says what running it does.
#[derive(Default)]
struct Postgres {
    statements: HashMap<Bytes, Bytes>,
    portal: Option<Bytes>,
    /// `T` or `E` in a transaction block.
    block: Option<u8>,
    skipping: bool,
    /// In a batch of the extended protocol that may have done something.
    open: bool,
    /// Copying, by a Query or by an Execute.
    copying: Option<u8>,
    unread: Bytes,
    /// Written, but it leaves only with a Flush or at the end of a batch.
    held: Bytes,
    sent: Bytes,
}

/// The strings in a body, up to `count`.
fn split(body: &[u8], count: usize) -> Vec<Bytes> {
    body.splitn(count + 1, |&b| b == 0)
        .take(count)
        .map(<[u8]>::to_vec)
        .collect()
}

impl Postgres {
    fn says(&mut self, sent: &[u8]) -> Bytes {
        self.unread.extend_from_slice(sent);
        while let Some(head) = self.unread.first_chunk::<5>() {
            let [kind, length @ ..] = *head;
            let whole = 1 + usize::try_from(u32::from_be_bytes(length)).expect("a length");
            if self.unread.len() < whole {
                break;
            }
            let rest = self.unread.split_off(whole);
            let one = std::mem::replace(&mut self.unread, rest);
            self.hears(kind, &one[5..]);
        }
        std::mem::take(&mut self.sent)
    }

    fn flush(&mut self) {
        self.sent.append(&mut self.held);
    }

    fn ready(&mut self) {
        self.open = false;
        let status = self.block.unwrap_or(b'I');
        self.held.extend(message(b'Z', &[status]));
        self.flush();
    }

    fn fail(&mut self, kind: u8, code: &str, name: &[u8]) {
        let words = format!("about \"{}\"", String::from_utf8_lossy(name));
        self.held.extend(error(code, &words));
        self.block = self.block.map(|_| b'E');
        self.copying = None;
        if matches!(kind, b'Q' | b'+') {
            self.ready();
        } else {
            // An error does not wait for a Flush (send_message_to_frontend).
            self.flush();
            self.skipping = true;
        }
    }

    fn hears(&mut self, kind: u8, body: &[u8]) {
        if let Some(by) = self.copying {
            match kind {
                b'c' => {
                    self.copying = None;
                    self.held.extend(complete("COPY 1"));
                    if by == b'Q' {
                        self.ready();
                    }
                }
                b'f' => self.fail(by, "57014", b""),
                b'd' if body == b"bad" => self.fail(by, "22P02", b""),
                b'd' | b'H' | b'S' => {}
                other => panic!("{} breaks the protocol in a copy", char::from(other)),
            }
            return;
        }
        if self.skipping && kind != b'S' {
            return;
        }
        self.open |= matches!(kind, b'P' | b'B' | b'D' | b'E' | b'C');
        match kind {
            b'P' => {
                let [name, text] = &split(body, 2)[..] else {
                    panic!("a broken Parse")
                };
                if name.is_empty() {
                    self.statements.remove(name);
                }
                if text.starts_with(b"bad") {
                    self.fail(kind, "42601", b"");
                } else if !name.is_empty() && self.statements.contains_key(name) {
                    self.fail(kind, "42P05", name);
                } else {
                    self.statements.insert(name.clone(), text.clone());
                    self.held.extend(parsed());
                }
            }
            b'B' => {
                let name = split(body, 2).remove(1);
                match self.statements.get(&name).cloned() {
                    None => self.fail(kind, "26000", &name),
                    Some(text) if self.refuses(&text) => self.fail(kind, "25P02", b""),
                    Some(_) if body.contains(&b'!') => self.fail(kind, "08P01", &name),
                    Some(text) => {
                        self.portal = Some(text);
                        self.held.extend(bound());
                    }
                }
            }
            b'D' => {
                let name = body[1..body.len() - 1].to_vec();
                if self.statements.contains_key(&name) {
                    self.held.extend([takes_parameters(), no_data()].concat());
                } else {
                    self.fail(kind, "26000", &name);
                }
            }
            b'E' if !body.starts_with(b"\0") => self.fail(kind, "34000", b""),
            b'E' => match self.portal.clone() {
                Some(text) => self.run(kind, &text),
                None => self.fail(kind, "34000", b""),
            },
            b'C' => {
                self.statements.remove(&body[1..body.len() - 1]);
                self.held.extend(closed());
            }
            b'S' => {
                self.skipping = false;
                if self.block.is_none() {
                    self.portal = None;
                }
                self.ready();
            }
            b'H' => self.flush(),
            b'Q' => {
                self.statements.remove(&b""[..]);
                let text = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                let mut statements = text.split("; ").peekable();
                while let Some(one) = statements.next() {
                    let sent = self.sent.len();
                    let last = statements.peek().is_none();
                    self.run(if last { kind } else { b'+' }, one.as_bytes());
                    if self.sent.len() > sent {
                        // It has failed, and said that it is ready.
                        return;
                    }
                }
            }
            b'F' if self.block == Some(b'E') => self.fail(b'Q', "25P02", b""),
            b'F' => {
                self.held.extend(message(b'V', &[0, 0, 0, 0]));
                self.ready();
            }
            b'd' | b'c' | b'f' => {}
            other => panic!("{} is not understood", char::from(other)),
        }
    }

    fn refuses(&self, text: &[u8]) -> bool {
        self.block == Some(b'E') && ![&b"end"[..], b"commit;", b"ROLLBACK"].contains(&text)
    }

    /// `kind`: of the request, or `+` for a statement of a Query with more behind it.
    fn run(&mut self, kind: u8, text: &[u8]) {
        if self.refuses(text) {
            return self.fail(kind, "25P02", b"");
        }
        let named = |verb: &[u8]| text.strip_prefix(verb).map(<[u8]>::to_vec);
        let deallocated = named(b"deallocate ").filter(|name| name != b"all");
        let tag = match text {
            _ if deallocated.is_some() => {
                let name = deallocated.unwrap_or_default();
                if self.statements.remove(&name).is_none() {
                    return self.fail(kind, "26000", &name);
                }
                "DEALLOCATE"
            }
            b"begin" | b"begin;" | b"BEGIN" => {
                self.block = Some(b'T');
                "BEGIN"
            }
            b"end" | b"commit;" => match self.block.take() {
                Some(b'E') => "ROLLBACK",
                _ => "COMMIT",
            },
            b"ROLLBACK" => {
                self.block = None;
                "ROLLBACK"
            }
            b"discard all" => {
                self.statements.retain(|name, _| name.is_empty());
                "DISCARD ALL"
            }
            b"deallocate all" | b"DEALLOCATE ALL" => {
                self.statements.retain(|name, _| name.is_empty());
                "DEALLOCATE ALL"
            }
            b"copy view" => {
                self.held.extend(copy_in());
                return self.fail(kind, "42809", b"");
            }
            b"copy" => {
                self.held.extend(copy_in());
                self.flush();
                self.copying = Some(kind);
                return;
            }
            b"fail" | b"DEALLOCATE \"DOORMAN_refuses\"" => return self.fail(kind, "22012", b""),
            // What has been run is seen by the client.
            text => {
                let text = String::from_utf8_lossy(text);
                self.held.extend(row(&[&text[..text.len().min(20)]]));
                "SELECT 1"
            }
        };
        self.held.extend(complete(tag));
        if kind == b'Q' {
            self.ready();
        }
    }
}

fn text(dice: &mut Dice) -> String {
    let texts = [
        "one", "two", "three", "four", "five", "bad", "fail", "begin", "end",
    ];
    match dice.roll(16) {
        0 => format!("{}{}", dice.roll(2), "x".repeat(20_000)),
        other => texts[other % texts.len()].to_owned(),
    }
}

fn copies(dice: &mut Dice) -> &'static str {
    ["copy", "copy", "copy view"][dice.roll(3)]
}

/// What a client says behind a request that copies, up to the end of its data and somewhat more.
fn data(dice: &mut Dice) -> Bytes {
    let mut said = Bytes::new();
    for _ in 0..dice.roll(8) {
        said.extend(match dice.roll(6) {
            0 => copy_data("bad"),
            1 | 2 => sync(),
            3 => flush(),
            _ => copy_data("1\n"),
        });
    }
    let ends = [copy_done(), copy_fail("no more")];
    said.extend(&ends[dice.roll(2)]);
    match dice.roll(6) {
        0 => said.extend([copy_data("2\n"), copy_done()].concat()),
        1 => said.extend(sync()),
        _ => {}
    }
    said
}

/// What a client says next: one or several batches or queries, all of them ended.
fn says(dice: &mut Dice) -> Bytes {
    let names = ["", "", "a", "b", "c"];
    let mut said = Bytes::new();
    for _ in 0..=dice.roll(4) {
        match dice.roll(16) {
            0 => said.extend(query(&text(dice))),
            12 => said.extend(query(["commit;", "ROLLBACK"][dice.roll(2)])),
            13 => said.extend(query("begin;")),
            14 => said.extend(query(
                ["deallocate a", "deallocate b", "deallocate c"][dice.roll(3)],
            )),
            1 => {
                let forgets = ["discard all", "deallocate all"][dice.roll(2)];
                // PostgreSQL allows the one, and is seldom asked for the other, in a transaction.
                if dice.roll(2) == 0 {
                    said.extend([query("end"), query(forgets)].concat());
                } else {
                    let alone = [parse("", forgets), bind(""), execute(), sync()].concat();
                    said.extend([query("end"), alone].concat());
                }
            }
            2 => said.extend([query(copies(dice)), data(dice)].concat()),
            3 => {
                let batch = [parse("", copies(dice)), bind(""), execute()].concat();
                // Nobody runs it again without data.
                let replaced = [sync(), parse("", "one"), sync()].concat();
                said.extend([batch, data(dice), replaced].concat());
            }
            _ => {
                for _ in 0..=dice.roll(5) {
                    let name = names[dice.roll(names.len())];
                    match dice.roll(14) {
                        12 => said.extend(query(&text(dice))),
                        13 => said.extend(function_call()),
                        0..3 => said.extend(parse(name, &text(dice))),
                        3..6 => said.extend([bind(name), execute()].concat()),
                        6..9 => {
                            let parse = parse(name, &text(dice));
                            said.extend([parse, bind(name), execute()].concat());
                        }
                        9 => said.extend(describe(name)),
                        10 => said.extend(close(name)),
                        _ if dice.roll(2) == 0 => said.extend(flush()),
                        _ => said.extend(bind_with("", name, b"!")),
                    }
                }
                said.extend(sync());
            }
        }
    }
    said
}

/// Messages in words; of an error only its code, because two names may mean one statement.
fn gist(mut bytes: &[u8]) -> Vec<String> {
    let mut gist = Vec::new();
    while let Some(head) = bytes.first_chunk::<5>() {
        let [kind, length @ ..] = *head;
        let whole = 1 + usize::try_from(u32::from_be_bytes(length)).expect("a length");
        let body = bytes[5..whole].escape_ascii().to_string();
        let body = match kind {
            b'E' => body.split("\\x00").nth(2).unwrap_or_default().to_owned(),
            _ => body,
        };
        gist.push(format!("{} {body}", char::from(kind)));
        bytes = &bytes[whole..];
    }
    gist
}

struct Client {
    between: Between,
    /// What it has said so far.
    said: Bytes,
    /// What its server has sent and has not arrived.
    on_its_way: Bytes,
}

impl Client {
    /// Carries what the relay sends to the server it has.
    fn carry(&mut self, servers: &mut [Postgres]) {
        if let Some(link) = &self.between.session.link {
            let number = usize::try_from(link.backend.key.id).expect("a number");
            let heard = std::mem::take(&mut self.between.to_server);
            self.on_its_way.extend(servers[number].says(&heard));
        }
    }

    /// Lets the next bytes of `from` arrive, or some of what the server has sent.
    fn step(&mut self, from: &mut Bytes, dice: &mut Dice) {
        let cut = |bytes: &mut Bytes, most: usize| {
            let rest = bytes.split_off(bytes.len().min(most));
            std::mem::replace(bytes, rest)
        };
        if dice.roll(2) == 0 {
            let now = cut(from, 1 + dice.roll(200));
            let wants = self.between.try_client(&now);
            assert!(wants.is_ok(), "{wants:?}");
        } else if self.between.session.link.is_some() {
            let now = cut(&mut self.on_its_way, 1 + dice.roll(100));
            self.between.server(&[&now]);
        }
    }

    /// Says a part of `to_say` and leaves; the connection's number, if it cannot be used again.
    fn leave(
        mut self,
        mut to_say: Bytes,
        servers: &mut [Postgres],
        dice: &mut Dice,
    ) -> (Option<Box<Backend>>, Option<u64>) {
        for _ in 0..dice.roll(30) {
            self.carry(servers);
            self.step(&mut to_say, dice);
        }
        self.carry(servers);
        if !self.between.client_gone() {
            let backend = self.between.session.give_up_connection();
            return (None, backend.map(|backend| backend.key.id));
        }
        for _ in 0..10_000 {
            self.carry(servers);
            if self.between.session.link.is_none() {
                assert!(
                    self.on_its_way.is_empty(),
                    "of its server's words something is left"
                );
                return (self.between.idle, None);
            }
            self.step(&mut Bytes::new(), dice);
        }
        panic!(
            "its connection does not come back: {:?}",
            self.between.link()
        );
    }

    /// Lets everything that is said arrive, in pieces and in any order.
    fn exchange(&mut self, mut to_say: Bytes, servers: &mut [Postgres], dice: &mut Dice) {
        self.said.extend_from_slice(&to_say);
        let mut patience = 100_000;
        loop {
            self.carry(servers);
            let idle = self.on_its_way.is_empty() && self.between.from_client.is_empty();
            if to_say.is_empty() && idle {
                return;
            }
            patience -= 1;
            assert!(patience > 0, "nothing moves");
            self.step(&mut to_say, dice);
        }
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let statements = Arc::new(StatementRegistry::default());
    let limit = [0, 1, 2, 3, 100][dice.roll(5)];
    let new_client = || {
        let mut between = Between::new();
        between.idle = None;
        between.statements = Arc::clone(&statements);
        between.rules.prepared_per_server = limit;
        Client {
            between,
            said: Bytes::new(),
            on_its_way: Bytes::new(),
        }
    };
    let mut clients: Vec<Client> = (0..3).map(|_| new_client()).collect();
    let new_backend = |id| {
        let mut backend = backend();
        backend.key = Arc::new(BackendKey::new(
            id,
            Address::Unix("/".into()),
            1,
            vec![],
            None,
        ));
        backend
    };
    let mut servers: Vec<Postgres> = (0..4).map(|_| Postgres::default()).collect();
    let mut idle: Vec<Box<Backend>> = (0..4).map(new_backend).collect();
    for _ in 0..12 {
        let place = dice.roll(3);
        let client = &mut clients[place];
        if client.between.session.link.is_none() {
            let backend = idle.swap_remove(dice.roll(idle.len()));
            client.between.idle = Some(backend);
        }
        let said = says(&mut dice);
        if dice.roll(6) == 0 {
            let client = std::mem::replace(client, new_client());
            let (back, lost) = client.leave(said, &mut servers, &mut dice);
            idle.extend(back);
            if let Some(id) = lost {
                servers[usize::try_from(id).expect("a number")] = Postgres::default();
                idle.push(new_backend(id));
            }
        } else {
            client.exchange(said, &mut servers, &mut dice);
            idle.extend(client.between.idle.take());
        }
        for backend in &idle {
            let server = &servers[usize::try_from(backend.key.id).expect("a number")];
            let at_rest = server.block.is_none()
                && !server.skipping
                && !server.open
                && server.copying.is_none();
            assert!(at_rest && server.unread.is_empty() && server.held.is_empty());
        }
    }
    for client in &clients {
        let got = &client.between.to_client;
        let alone = Postgres::default().says(&client.said);
        assert!(
            !got.windows(7).any(|window| window == b"DOORMAN"),
            "seed {seed}: a name of the pooler's own"
        );
        let (got, expected) = (gist(got), gist(&alone));
        let place = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            got == expected,
            "seed {seed}: of\n{:#?}\nthe client got\n{:#?}\nand not, from {place:?},\n{:#?}",
            gist(&client.said),
            got,
            expected
        );
    }
}

#[test]
fn the_pooler_cannot_be_told_from_a_server_of_ones_own() {
    for seed in 1..1000 {
        run(seed);
    }
}
