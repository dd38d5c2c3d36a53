//! HBA lines as operators write them, and those that are refused.

use super::*;

fn parse(text: &str) -> Result<Vec<Rule>, Vec<(usize, String)>> {
    super::parse(text, &IdentMaps::default())
}

fn one(line: &str) -> Rule {
    let mut rules = parse(line).unwrap();
    assert_eq!(rules.len(), 1, "{line}");
    rules.remove(0)
}

fn refusal(line: &str) -> String {
    let mut wrong = parse(line).unwrap_err();
    assert_eq!(wrong.len(), 1, "{line}");
    wrong.remove(0).1
}

#[test]
fn the_usual_lines_are_understood() {
    let rules = parse(
        "# TYPE  DATABASE  USER  ADDRESS  METHOD\n\
         \n\
         local   all       all                    trust\n\
         host    shop,crm  app, web  10.0.0.0/8   scram-sha-256 # office\n\
         hostssl sameuser  all   ::1              md5\n\
         hostnossl all     all   all              reject\n",
    )
    .unwrap();
    assert_eq!(
        rules.iter().map(|r| r.line).collect::<Vec<_>>(),
        [3, 4, 5, 6]
    );
    assert_eq!(rules[0].transport, Transport::Local);
    assert_eq!(rules[1].databases.len(), 2);
    assert_eq!(
        rules[1].users,
        [UserMatch::Name("app".into()), UserMatch::Name("web".into())]
    );
    assert_eq!(rules[1].address, Some(Cidr::parse("10.0.0.0/8").unwrap()));
    assert_eq!(rules[2].address, Some(Cidr::parse("::1/128").unwrap()));
    assert_eq!(rules[3].address, None);
    assert_eq!(rules[3].method, Method::Reject);
}

#[test]
fn a_quoted_keyword_is_a_name_and_a_hash_in_quotes_is_a_letter() {
    let rule = one(r##"host "all" "a#b ""c""" 127.0.0.1/32 trust"##);
    assert_eq!(rule.databases, [DatabaseMatch::Name("all".into())]);
    assert_eq!(rule.users, [UserMatch::Name("a#b \"c\"".into())]);
}

#[test]
fn an_address_may_have_a_mask() {
    let rule = one("host all all 192.0.2.0 255.255.255.0 md5");
    assert_eq!(rule.address, Some(Cidr::parse("192.0.2.0/24").unwrap()));
}

#[test]
fn a_backslash_continues_the_line() {
    let rules = parse("host all all \\\n 10.0.0.0/8 md5\nlocal all all trust").unwrap();
    assert_eq!(rules.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn an_address_that_is_not_understood_is_never_any_address() {
    for address in [
        "samehost",
        "samenet",
        "db.example.com",
        ".example.com",
        "10.0.0/8",
        "10.0.0.0/99",
    ] {
        let reason = refusal(&format!("host all all {address} trust"));
        assert!(
            reason.contains("address") || reason.contains("network"),
            "{reason}"
        );
    }
}

#[test]
fn every_other_line_is_refused_with_the_way_out() {
    assert!(refusal("hots all all all md5").contains("begins with local, host"));
    assert!(refusal("host all all").contains("the form is: host DATABASE USER ADDRESS METHOD"));
    assert!(refusal("local all all").contains("the form is: local DATABASE USER METHOD"));
    assert!(refusal("host all all 10.0.0.0/8").contains("too short"));
    assert!(refusal("host all all ::1 ff0f:: trust").contains("mask"));
    assert!(refusal("host all all 10.0.0.0/8 255.0.0.0 trust").contains("mask"));
    assert!(refusal("local all all peer").contains("not supported in this version"));
    assert!(refusal("local all all scram").contains("write trust, scram-sha-256"));
    assert!(refusal("host all +staff all md5").contains("membership"));
    assert!(refusal("host all @users all md5").contains("a file of names"));
    assert!(refusal("host /^a all all md5").contains("regular expression"));
    assert!(refusal("host samerole all all md5").contains("samerole"));
    assert!(refusal("host all all 10.0.0.0/8,11.0.0.0/8 md5").contains("a list stands"));
    assert!(refusal("host all \"app all md5").contains("does not end"));
    assert!(refusal("host all, ").contains("comma"));
    assert!(refusal("include other.conf").contains("include"));
}

#[test]
fn all_wrong_lines_are_told_at_once() {
    let wrong = parse("host\nlocal all all trust\nhots").unwrap_err();
    assert_eq!(wrong.iter().map(|w| w.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_rule_speaks_of_its_databases_and_users_only() {
    let rule = one("local shop,sameuser app,crm trust");
    assert!(rule.names("shop", "app"));
    assert!(rule.names("crm", "crm"));
    assert!(!rule.names("other", "app"));
    assert!(!rule.names("shop", "eve"));
    assert!(!one("local replication all trust").names("replication", "app"));
}

#[test]
fn certificates_are_demanded_as_in_postgresql() {
    let demand = |line: &str| one(line).certificate;
    assert_eq!(demand("host all all all md5"), CertificateDemand::No);
    assert_eq!(
        demand("hostssl all all all trust clientcert=verify-ca"),
        CertificateDemand::Signed
    );
    let named = |by| CertificateDemand::Named { by, map: None };
    assert_eq!(
        demand("hostssl all all all md5 clientcert=verify-full"),
        named(CertificateName::CommonName)
    );
    assert_eq!(
        demand("hostssl all all all cert"),
        named(CertificateName::CommonName)
    );
    assert_eq!(
        demand("hostssl all all all cert clientcert=verify-full clientname=DN"),
        named(CertificateName::DistinguishedName)
    );
    let CertificateDemand::Named { map, .. } = demand("hostssl all all all cert \"map=staff\"")
    else {
        panic!("a rule with a map demands a name");
    };
    assert_eq!(map.unwrap().name(), "staff");
}

#[test]
fn an_option_that_would_not_do_what_it_says_is_refused() {
    let cases = [
        ("host all all all cert", "only supported on hostssl"),
        (
            "hostssl all all all cert clientcert=verify-ca",
            "only accepts \"verify-full\"",
        ),
        (
            "host all all all md5 clientcert=verify-ca",
            "\"hostssl\" rows",
        ),
        (
            "hostnossl all all all md5 clientname=CN",
            "\"hostssl\" rows",
        ),
        (
            "hostssl all all all md5 clientcert=1",
            "invalid value for clientcert: \"1\"",
        ),
        (
            "hostssl all all all cert clientname=cn",
            "invalid value for clientname",
        ),
        ("hostssl all all all md5 clientname=CN", "needs clientcert"),
        ("hostssl all all all md5 map=staff", "only valid for"),
        ("hostssl all all all cert map=", "the name is missing"),
        ("hostssl all all all cert map=a map=b", "map is there twice"),
        (
            "hostssl all all all cert krb_realm=x",
            "\"krb_realm\" is not an option",
        ),
        ("hostssl all all all cert verify-full", "NAME=VALUE"),
    ];
    for (line, reason) in cases {
        assert!(refusal(line).contains(reason), "{line}: {}", refusal(line));
    }
}
