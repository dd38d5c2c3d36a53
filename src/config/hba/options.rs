//! What stands after the method of a rule: words of the form NAME=VALUE.
//!
//! Those of methods that are not built in are read and have no effect, because such a rule refuses its clients. The
//! invariant: an option that PostgreSQL does not know, or not with this method, is refused. One that was ignored
//! would make the rule weaker than it looks.

use super::{CertificateDemand, CertificateName, Method, Transport};
use crate::config::fields::Field;
use crate::config::ident::{IdentMap, IdentMaps};
use crate::config::problem::quote;

/// What the options say.
pub(super) struct Options {
    pub certificate: CertificateDemand,
    pub map: Option<IdentMap>,
}

/// Options that only methods have that are not built in: the name, and the methods.
const FOREIGN: [(&str, &[&str]); 26] = [
    ("pamservice", &["pam"]),
    ("pam_use_hostname", &["pam"]),
    ("ldapurl", &["ldap"]),
    ("ldaptls", &["ldap"]),
    ("ldapscheme", &["ldap"]),
    ("ldapserver", &["ldap"]),
    ("ldapport", &["ldap"]),
    ("ldapbinddn", &["ldap"]),
    ("ldapbindpasswd", &["ldap"]),
    ("ldapsearchattribute", &["ldap"]),
    ("ldapsearchfilter", &["ldap"]),
    ("ldapbasedn", &["ldap"]),
    ("ldapprefix", &["ldap"]),
    ("ldapsuffix", &["ldap"]),
    ("krb_realm", &["gss", "sspi"]),
    ("include_realm", &["gss", "sspi"]),
    ("compat_realm", &["sspi"]),
    ("upn_username", &["sspi"]),
    ("radiusservers", &["radius"]),
    ("radiusports", &["radius"]),
    ("radiussecrets", &["radius"]),
    ("radiusidentifiers", &["radius"]),
    ("issuer", &["oauth"]),
    ("scope", &["oauth"]),
    ("validator", &["oauth"]),
    ("delegate_ident_mapping", &["oauth"]),
];

/// Methods that have a map.
const WITH_MAP: [&str; 6] = ["ident", "peer", "gss", "sspi", "cert", "oauth"];

pub(super) fn read(
    transport: Transport,
    method: Method,
    fields: &[Field],
    maps: &IdentMaps,
) -> Result<Options, String> {
    let ssl = transport == Transport::HostSsl;
    let (mut demand, mut name, mut map) = (None, CertificateName::CommonName, None);
    let mut given = Vec::new();
    for word in fields.iter().flatten() {
        let text = String::from_utf8_lossy(&word.text);
        let (key, value) = text.split_once('=').ok_or_else(|| {
            format!(
                "authentication option not in name=value format: {}",
                word.shown()
            )
        })?;
        match key {
            "map" if !WITH_MAP.contains(&method.word()) => return Err(only_for(key, &WITH_MAP)),
            "map" => map = Some(value.to_owned()).filter(|map| !map.is_empty()),
            "clientcert" | "clientname" if !ssl => {
                return Err(format!("{key} can only be configured for \"hostssl\" rows"));
            }
            "clientcert" => match value {
                "verify-full" => demand = Some(CertificateDemand::Named(name)),
                "verify-ca" if method == Method::Cert => {
                    return Err(
                        "clientcert only accepts \"verify-full\" when using \"cert\" authentication"
                            .into(),
                    );
                }
                "verify-ca" => demand = Some(CertificateDemand::Signed),
                _ => return Err(invalid(key, value, "verify-ca or verify-full")),
            },
            "clientname" => match value {
                "CN" => name = CertificateName::CommonName,
                "DN" => name = CertificateName::DistinguishedName,
                _ => return Err(invalid(key, value, "CN or DN")),
            },
            _ => foreign(key, value, method)?,
        }
        given.push(key.to_owned());
    }
    complete(method, &given)?;
    let named = method == Method::Cert || matches!(demand, Some(CertificateDemand::Named(_)));
    let certificate = match demand {
        _ if named => CertificateDemand::Named(name),
        demand => demand.unwrap_or(CertificateDemand::No),
    };
    Ok(Options {
        certificate,
        map: map.map(|map| maps.named(map.as_bytes())),
    })
}

fn invalid(key: &str, value: &str, instead: &str) -> String {
    format!("invalid value for {key}: {}; write {instead}", quote(value))
}

fn only_for(key: &str, methods: &[&str]) -> String {
    format!(
        "authentication option {} is only valid for authentication methods {}",
        quote(key),
        methods.join(", ")
    )
}

/// Checks an option of a method that is not built in.
fn foreign(key: &str, value: &str, method: Method) -> Result<(), String> {
    let known = FOREIGN.iter().find(|(name, _)| *name == key);
    let Some((_, methods)) = known else {
        return Err(format!(
            "unrecognized authentication option name: {}",
            quote(key)
        ));
    };
    if !methods.contains(&method.word()) {
        return Err(only_for(key, methods));
    }
    let port = value.parse::<u16>().ok().filter(|port| *port > 0);
    match key {
        "ldapport" if port.is_none() => Err(invalid(key, value, "a port")),
        "ldapscheme" if !["ldap", "ldaps"].contains(&value) => {
            Err(invalid(key, value, "ldap or ldaps"))
        }
        _ => Ok(()),
    }
}

/// Whether a method that is not built in has what it must have.
fn complete(method: Method, given: &[String]) -> Result<(), String> {
    let has = |key: &str| given.iter().any(|one| one == key);
    let missing = |what: &str| {
        let word = method.word();
        Err(format!(
            "authentication method {word} requires {what} to be set"
        ))
    };
    match method.word() {
        "ldap" => {
            let search = ["ldapbasedn", "ldapsearchattribute", "ldapsearchfilter"];
            let search = search.iter().any(|key| has(key)) || has("ldapbinddn");
            let simple = has("ldapprefix") || has("ldapsuffix");
            if has("ldapurl") {
                Ok(())
            } else if !has("ldapserver") {
                missing("\"ldapserver\"")
            } else if simple && search {
                Err("cannot mix options of the simple bind with those of search and bind".into())
            } else if !simple && !has("ldapbasedn") {
                missing("\"ldapbasedn\", \"ldapprefix\", or \"ldapsuffix\"")
            } else {
                Ok(())
            }
        }
        "radius" if !has("radiusservers") => missing("\"radiusservers\""),
        "radius" if !has("radiussecrets") => missing("\"radiussecrets\""),
        "oauth" if !has("issuer") => missing("\"issuer\""),
        "oauth" if !has("scope") => missing("\"scope\""),
        _ => Ok(()),
    }
}
