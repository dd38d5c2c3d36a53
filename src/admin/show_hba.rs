//! `SHOW HBA`: the rules of `pg_hba` as they were read, in the form of PostgreSQL's view `pg_hba_file_rules`.
//!
//! Invariant: no option that can be a secret is shown.

use super::table::Table;
use crate::config::{AddressMatch, CertificateDemand, DatabaseMatch, Hba, Rule, UserMatch};
use crate::session::shared::Shared;

/// The table.
pub(super) fn hba(shared: &Shared) -> Table {
    let mut table = Table::new(
        "int4: rule_number text: file_name int4: line_number text: type database user_name address \
         netmask auth_method options",
    );
    if let Hba::Rules(rules) = &shared.settings().general.hba {
        for (number, rule) in (1..).zip(rules) {
            table.row(row(number, rule));
        }
    }
    table
}

fn row(number: usize, rule: &Rule) -> Vec<String> {
    let file = rule.at.file.as_ref();
    let databases = rule.databases.iter().map(DatabaseMatch::shown);
    let users = rule.users.iter().map(UserMatch::shown);
    let local = rule.transport.word() == "local";
    let (address, mask) = match &rule.address {
        AddressMatch::Any if local => (String::new(), String::new()),
        AddressMatch::Any => ("all".into(), String::new()),
        AddressMatch::SameHost => ("samehost".into(), String::new()),
        AddressMatch::SameNet => ("samenet".into(), String::new()),
        AddressMatch::Host(name) => (name.clone(), String::new()),
        AddressMatch::Network(network) => {
            (network.address().to_string(), network.mask().to_string())
        }
    };
    let mut options = Vec::new();
    if let Some(map) = &rule.map {
        options.push(format!("map={}", map.name()));
    }
    match rule.certificate {
        CertificateDemand::No => {}
        CertificateDemand::Signed => options.push("clientcert=verify-ca".into()),
        CertificateDemand::Named(_) => options.push("clientcert=verify-full".into()),
    }
    vec![
        number.to_string(),
        file.map_or_else(String::new, |file| file.display().to_string()),
        rule.at.line.to_string(),
        rule.transport.word().to_owned(),
        databases.collect::<Vec<_>>().join(","),
        users.collect::<Vec<_>>().join(","),
        address,
        mask,
        rule.method.word().to_owned(),
        options.join(","),
    ]
}
