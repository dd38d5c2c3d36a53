//! Host-based access rules: who may try to log in from where, and how.
//!
//! Reads the lines of a `pg_hba.conf`; judging a login by them is `auth`'s
//! business. The invariant: a line is either understood in full or refused with
//! its number. A rule that is skipped or read too widely would open a door.

use super::cidr::Cidr;
use super::problem::quote;

/// How logins are restricted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Hba {
    /// Not at all: everybody may try, with the password in the file.
    #[default]
    Anyone,
    /// The legacy `hba` list: TCP clients from these networks, Unix-socket
    /// clients always.
    Networks(Vec<Cidr>),
    /// `pg_hba`: these rules, first match first.
    Rules(Vec<Rule>),
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which connections it is for.
    pub transport: Transport,
    /// Which databases; any of these.
    pub databases: Vec<DatabaseMatch>,
    /// Which users; any of these.
    pub users: Vec<UserMatch>,
    /// From where; `None` is everywhere, and the only form for `local`.
    pub address: Option<Cidr>,
    /// What is asked of the client.
    pub method: Method,
    /// The line in its text, from 1.
    pub line: usize,
}

/// The first word of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Unix socket.
    Local,
    /// TCP with or without TLS.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// One entry of a rule's databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseMatch {
    /// `all`.
    All,
    /// `sameuser`: the database named as the user.
    SameUser,
    /// `replication`: only replication connections, which this program has not.
    Replication,
    /// This name.
    Name(String),
}

/// One entry of a rule's users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserMatch {
    /// `all`.
    All,
    /// This name.
    Name(String),
}

/// The last word of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// No password.
    Trust,
    /// Password by MD5, or SCRAM where the verifier is one.
    Md5,
    /// Password by SCRAM-SHA-256.
    ScramSha256,
    /// Password in clear.
    Password,
    /// Refuse.
    Reject,
}

impl Rule {
    /// Whether the rule speaks of this user in this database.
    pub fn names(&self, database: &str, user: &str) -> bool {
        let database_fits = self.databases.iter().any(|entry| match entry {
            DatabaseMatch::All => true,
            DatabaseMatch::SameUser => database == user,
            DatabaseMatch::Replication => false,
            DatabaseMatch::Name(name) => name == database,
        });
        database_fits
            && self.users.iter().any(|entry| match entry {
                UserMatch::All => true,
                UserMatch::Name(name) => name == user,
            })
    }
}

/// Reads all rules of a text, or says of every wrong line what is wrong:
/// `(line, reason)`.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, Vec<(usize, String)>> {
    let mut rules = Vec::new();
    let mut wrong = Vec::new();
    for (line, text) in logical_lines(text) {
        match fields(&text).and_then(|fields| rule(&fields, line)) {
            Ok(Some(rule)) => rules.push(rule),
            Ok(None) => {}
            Err(reason) => wrong.push((line, reason)),
        }
    }
    if wrong.is_empty() {
        Ok(rules)
    } else {
        Err(wrong)
    }
}

/// Joins lines that end in a backslash to the next, as PostgreSQL does.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (index, part) in text.lines().enumerate() {
        let (number, mut line) = pending.take().unwrap_or((index + 1, String::new()));
        match part.strip_suffix('\\') {
            Some(part) => {
                line.push_str(part);
                pending = Some((number, line));
            }
            None => {
                line.push_str(part);
                lines.push((number, line));
            }
        }
    }
    lines.extend(pending);
    lines
}

/// A word of a line. Quoted words are names, never keywords.
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// Splits a line into fields at blanks, and fields into words at commas.
fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut after_comma = false;
    let mut letters = line.chars().peekable();
    while let Some(&letter) = letters.peek() {
        match letter {
            '#' => break,
            ',' => {
                if fields.is_empty() || after_comma {
                    return Err("a comma without a name before it".into());
                }
                letters.next();
                after_comma = true;
            }
            c if c.is_whitespace() => {
                letters.next();
            }
            _ => {
                let word = next_word(&mut letters)?;
                match fields.last_mut() {
                    Some(field) if after_comma => field.push(word),
                    _ => fields.push(vec![word]),
                }
                after_comma = false;
            }
        }
    }
    if after_comma {
        return Err("a comma without a name after it".into());
    }
    Ok(fields)
}

fn next_word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, String> {
    let mut word = Word {
        text: String::new(),
        quoted: false,
    };
    let mut inside = false;
    while let Some(&letter) = letters.peek() {
        if letter == '"' {
            word.quoted = true;
            letters.next();
            // Two quotes inside quotes are one.
            if inside && letters.peek() == Some(&'"') {
                letters.next();
                word.text.push('"');
            } else {
                inside = !inside;
            }
            continue;
        }
        if !inside && (letter.is_whitespace() || letter == ',' || letter == '#') {
            break;
        }
        word.text.push(letter);
        letters.next();
    }
    if inside {
        return Err("a quoted name does not end on its line".into());
    }
    Ok(word)
}

fn rule(fields: &[Vec<Word>], line: usize) -> Result<Option<Rule>, String> {
    let Some((kind, rest)) = fields.split_first() else {
        return Ok(None);
    };
    let kind = single(kind)?;
    let transport = match kind.text.as_str() {
        "local" => Transport::Local,
        "host" => Transport::Host,
        "hostssl" => Transport::HostSsl,
        "hostnossl" => Transport::HostNoSsl,
        "hostgssenc" | "hostnogssenc" => {
            return Err(format!(
                "{} is not supported; write host, hostssl or hostnossl",
                kind.text
            ));
        }
        "include" | "include_if_exists" | "include_dir" => {
            return Err(format!(
                "{} is not supported; write the rules here",
                kind.text
            ));
        }
        _ => {
            return Err(format!(
                "{} is not a rule; a line begins with local, host, hostssl or hostnossl",
                quote(&kind.text)
            ));
        }
    };
    let form = if transport == Transport::Local {
        "local DATABASE USER METHOD"
    } else {
        "host DATABASE USER ADDRESS METHOD"
    };
    let [databases, users, rest @ ..] = rest else {
        return Err(format!("the line is too short; the form is: {form}"));
    };
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let (address, rest) = match (transport, rest) {
        (Transport::Local, rest) => (None, rest),
        (_, [_, _, ..]) => address(rest)?,
        _ => return Err(format!("the line is too short; the form is: {form}")),
    };
    let [method, options @ ..] = rest else {
        return Err(format!("the method is missing; the form is: {form}"));
    };
    let method = self::method(single(method)?)?;
    if !options.is_empty() {
        // An ignored option, clientcert say, would make the rule weaker than it looks.
        return Err("options after the method are not supported".into());
    }
    Ok(Some(Rule {
        transport,
        databases,
        users,
        address,
        method,
        line,
    }))
}

fn single(field: &[Word]) -> Result<&Word, String> {
    match field {
        [word] => Ok(word),
        _ => Err(
            "a list stands where one word is expected; lists are for databases and users".into(),
        ),
    }
}

fn database(word: &Word) -> Result<DatabaseMatch, String> {
    if word.quoted {
        return Ok(DatabaseMatch::Name(word.text.clone()));
    }
    match word.text.as_str() {
        "all" => Ok(DatabaseMatch::All),
        "sameuser" => Ok(DatabaseMatch::SameUser),
        "replication" => Ok(DatabaseMatch::Replication),
        "samerole" | "samegroup" => Err(format!(
            "{} is not supported; write all, sameuser or names",
            word.text
        )),
        text if text.starts_with(['@', '/', '+']) => Err(special(text)),
        text => Ok(DatabaseMatch::Name(text.into())),
    }
}

fn user(word: &Word) -> Result<UserMatch, String> {
    match word.text.as_str() {
        text if word.quoted => Ok(UserMatch::Name(text.into())),
        "all" => Ok(UserMatch::All),
        text if text.starts_with(['@', '/', '+']) => Err(special(text)),
        text => Ok(UserMatch::Name(text.into())),
    }
}

fn special(text: &str) -> String {
    let what = match text.chars().next() {
        Some('@') => "a file of names",
        Some('/') => "a regular expression",
        _ => "membership in a role",
    };
    format!(
        "{}: {what} is not supported; write all or names (quoted, if it is a name)",
        quote(text)
    )
}

/// The address, and what follows it.
fn address(rest: &[Vec<Word>]) -> Result<(Option<Cidr>, &[Vec<Word>]), String> {
    let [first, after @ ..] = rest else {
        return Ok((None, rest));
    };
    let first = single(first)?;
    if first.is("all") {
        return Ok((None, after));
    }
    if first.is("samehost") || first.is("samenet") {
        return Err(format!(
            "address {} is not supported; {ADDRESSES}",
            first.text
        ));
    }
    // A second address is the mask of the first.
    if let [second, after @ ..] = after {
        if let [mask] = second.as_slice() {
            if mask.text.contains(['.', ':']) {
                let cidr = Cidr::with_mask(&first.text, &mask.text)
                    .map_err(|reason| format!("address and mask: {reason}; {ADDRESSES}"))?;
                return Ok((Some(cidr), after));
            }
        }
    }
    match Cidr::parse(&first.text) {
        Ok(cidr) => Ok((Some(cidr), after)),
        Err(reason) => Err(format!("{reason}; {ADDRESSES}")),
    }
}

const ADDRESSES: &str = "write all, an address such as 192.0.2.1, or a network such as \
     192.0.2.0/24 (host names are not supported)";

fn method(word: &Word) -> Result<Method, String> {
    match word.text.as_str() {
        "trust" => Ok(Method::Trust),
        "md5" => Ok(Method::Md5),
        "scram-sha-256" => Ok(Method::ScramSha256),
        "password" => Ok(Method::Password),
        "reject" => Ok(Method::Reject),
        "cert" | "pam" | "ldap" | "radius" | "gss" | "sspi" | "ident" | "peer" | "bsd"
        | "oauth" => Err(format!(
            "method {} is not supported in this version; {METHODS}",
            word.text
        )),
        other => Err(format!("{} is not a method; {METHODS}", quote(other))),
    }
}

const METHODS: &str = "write trust, scram-sha-256, md5, password or reject";

#[cfg(test)]
mod tests;
