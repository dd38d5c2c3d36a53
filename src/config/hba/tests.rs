//! HBA lines as operators write them, and those that are refused.

use std::path::Path;

use super::*;
use crate::config::access_files;
use crate::config::ident::IdentMaps;

fn parse(text: &str) -> Result<Vec<Rule>, Vec<(usize, String)>> {
    let read = |line: &access_files::Line| rule(line, &IdentMaps::default());
    access_files::parse(text.as_bytes(), None, Path::new("/nowhere"), read).map_err(|wrong| {
        wrong
            .into_iter()
            .map(|wrong| (wrong.at.line, wrong.reason))
            .collect()
    })
}

fn network(address: &str, mask: &str) -> AddressMatch {
    let rule = one(&format!("host all all {address} {mask} md5"));
    assert_eq!(rule.method, Method::Md5);
    rule.address
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
        rules.iter().map(|r| r.at.line).collect::<Vec<_>>(),
        [3, 4, 5, 6]
    );
    assert_eq!(rules[0].transport, Transport::Local);
    assert_eq!(rules[1].databases.len(), 2);
    assert_eq!(
        rules[1].users,
        [
            UserMatch::Name(b"app".into()),
            UserMatch::Name(b"web".into())
        ]
    );
    assert_eq!(rules[1].address, network("10.0.0.0", "255.0.0.0"));
    assert_eq!(
        rules[2].address,
        network("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    );
    assert_eq!(rules[3].address, AddressMatch::Any);
    assert_eq!(rules[3].method, Method::Reject);
}

#[test]
fn a_quoted_keyword_is_a_name_and_a_hash_in_quotes_is_a_letter() {
    let rule = one(r##"host "all" "a#b ""c""" 127.0.0.1/32 trust"##);
    assert_eq!(rule.databases, [DatabaseMatch::Name(b"all".into())]);
    assert_eq!(rule.users, [UserMatch::Name(b"a#b \"c\"".into())]);
}

#[test]
fn an_address_may_have_a_mask() {
    let rule = one("host all all 192.0.2.0 255.255.255.0 md5");
    assert_eq!(rule.address, one("host all all 192.0.2.0/24 md5").address);
}

#[test]
fn a_backslash_continues_the_line() {
    let rules = parse("host all all \\\n 10.0.0.0/8 md5\nlocal all all trust").unwrap();
    assert_eq!(rules.iter().map(|r| r.at.line).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn an_address_that_is_not_understood_is_never_any_address() {
    for address in [
        "10.0.0/8",
        "10.0.0.0/99",
        "10.0.0",
        "0x7f.1",
        "::1%lo",
        "host/8",
        "10.0.0.0/",
    ] {
        let reason = refusal(&format!("host all all {address} trust"));
        assert!(
            reason.contains("address") || reason.contains("network"),
            "{reason}"
        );
    }
    for (text, address) in [
        ("samehost", AddressMatch::SameHost),
        ("samenet", AddressMatch::SameNet),
        (
            "db.example.com",
            AddressMatch::Host("db.example.com".into()),
        ),
        (".example.com", AddressMatch::Host(".example.com".into())),
        ("\"all\"", AddressMatch::Host("all".into())),
    ] {
        assert_eq!(one(&format!("host all all {text} trust")).address, address);
    }
    let AddressMatch::Network(odd) = network("10.0.0.1", "255.0.0.255") else {
        panic!("a mask is no network");
    };
    assert!(odd.contains([10, 9, 9, 1].into()) && !odd.contains([10, 9, 9, 2].into()));
    let AddressMatch::Network(everything) = one("host all all 0.0.0.0/0 md5").address else {
        panic!("a network is none");
    };
    assert!(everything.contains([10, 9, 9, 1].into()) && !everything.contains([0; 16].into()));
}

#[test]
fn special_words_are_read_unless_they_are_quoted() {
    let rule = one(
        r#"host samerole,samegroup,replication,"samerole",/^a +staff,"+staff","/^b",all all gss"#,
    );
    let shown: Vec<_> = rule.databases.iter().map(DatabaseMatch::shown).collect();
    assert_eq!(
        shown,
        ["samerole", "samerole", "replication", "samerole", "/^a"]
    );
    assert_eq!(rule.databases[3], DatabaseMatch::Name(b"samerole".into()));
    assert_eq!(rule.users[0], UserMatch::MemberOf(b"staff".into()));
    assert_eq!(rule.users[1], UserMatch::Name(b"+staff".into()));
    // PostgreSQL takes it for an expression even so.
    assert!(matches!(rule.users[2], UserMatch::Pattern(_)));
    assert_eq!(rule.users[3], UserMatch::All);
    assert_eq!(rule.method, Method::NotBuiltIn("gss"));
    assert_eq!(one("local all all ident").method, Method::Peer);
    assert_eq!(
        one("host all all all ident").method,
        Method::NotBuiltIn("ident")
    );
    assert_eq!(one("host all all all \"md5").method, Method::Md5);
}

#[test]
fn names_are_bytes() {
    let text = b"local \xfc all trust".as_slice();
    let read = |line: &access_files::Line| rule(line, &IdentMaps::default());
    let rules = access_files::parse(text, None, Path::new("/"), read).unwrap();
    assert_eq!(rules[0].databases, [DatabaseMatch::Name(vec![0xfc])]);
}

#[test]
fn every_other_line_is_refused_with_the_way_out() {
    assert!(refusal("hots all all all md5").contains("begins with local, host"));
    assert!(refusal("host,local all all all md5").contains("connection type"));
    assert!(refusal("host all").contains("the form is: host DATABASE USER ADDRESS METHOD"));
    assert!(refusal("local all all").contains("the form is: local DATABASE USER METHOD"));
    assert!(refusal("host all all 10.0.0.0/8").contains("before authentication method"));
    assert!(refusal("host all all ::1 255.0.0.0 trust").contains("do not match"));
    assert!(refusal("host all all 10.0.0.0/8 255.0.0.0 trust").contains("authentication method"));
    assert!(refusal("host all all all peer").contains("only supported on local"));
    assert!(refusal("local all all scram").contains("write trust, scram-sha-256"));
    assert!(refusal("host all @users all md5").contains("could not open file"));
    assert!(refusal("host /(a all all md5").contains("invalid regular expression"));
    assert!(refusal("host all all 10.0.0.0/8,11.0.0.0/8 md5").contains("a list stands"));
    assert!(refusal("host all all all md5,trust").contains("a list stands"));
    assert!(refusal("include other.conf").contains("could not open file \"/nowhere/other.conf\""));
    assert!(refusal("include_dir other").contains("could not open directory"));
    assert!(refusal("include a b").contains("invalid connection type"));
    assert!(parse("include_if_exists other.conf").unwrap().is_empty());
}

#[test]
fn files_are_read_where_they_are_named() {
    let dir = crate::test_dir::Scratch::new();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("names", "# all of them\napp, web\n\"@x\" @more\n");
    write("more", "+staff");
    write("sub/inner.conf", "local inner all trust\ninclude ../last\n");
    write("last", "local last all trust");
    write("dir/b.conf", "local b all trust");
    write("dir/a.conf", "local a all trust");
    write("dir/.c.conf", "nonsense");
    write("dir/d", "nonsense");
    write("loop", "include loop");
    let text =
        "local all @names trust\ninclude sub/inner.conf\n\ninclude_dir dir\nlocal end all trust";
    let read = |line: &access_files::Line| rule(line, &IdentMaps::default());
    let rules = access_files::parse(text.as_bytes(), None, dir.path(), read).unwrap();
    let users: Vec<_> = rules[0].users.iter().map(UserMatch::shown).collect();
    assert_eq!(users, ["app", "web", "@x", "+staff"]);
    let databases = rules.iter().map(|rule| rule.databases[0].shown());
    assert_eq!(
        databases.collect::<Vec<_>>(),
        ["all", "inner", "last", "a", "b", "end"]
    );
    assert_eq!(rules[1].at.line, 1);
    assert!(rules[1].at.to_string().ends_with("sub/inner.conf"));
    assert_eq!(
        rules[5].at,
        LinePlace {
            file: None,
            line: 5
        }
    );
    let wrong = access_files::parse(b"include loop", None, dir.path(), read).unwrap_err();
    assert!(
        wrong[0].reason.contains("maximum nesting depth"),
        "{wrong:?}"
    );
}

#[test]
fn lines_that_the_async_implementation_passes_over_are_named() {
    let skipped = |text: &str| -> Vec<usize> {
        let rules = parse(text).unwrap();
        let all = 0..rules.len();
        all.filter(|place| why_skipped(&rules, *place).is_some())
            .collect()
    };
    let plain = "host all all 10.0.0.0/8 md5\nhost shop app all reject\nlocal all all trust";
    assert_eq!(skipped(plain), [0]);
    assert_eq!(
        skipped("host all all 10.0.0.0/8 md5\nlocal all all trust"),
        [0; 0]
    );
    let text = "host a,b all all md5\nlocal all all peer\nhost all +a all md5\nhost all all h md5\n\
                hostssl all all all md5 clientcert=verify-ca\nhost x y all scram-sha-256\nhost all all all trust";
    assert_eq!(skipped(text), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn all_wrong_lines_are_told_at_once() {
    let wrong = parse("host\nlocal all all trust\nhots").unwrap_err();
    assert_eq!(wrong.iter().map(|w| w.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn certificates_are_demanded_as_in_postgresql() {
    let demand = |line: &str| one(line).certificate;
    assert_eq!(demand("host all all all md5"), CertificateDemand::No);
    assert_eq!(
        demand("hostssl all all all trust clientcert=verify-ca"),
        CertificateDemand::Signed
    );
    let named = CertificateDemand::Named;
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
    let staff = one("hostssl all all all cert \"map=staff\"");
    assert_eq!(staff.map.unwrap().name(), "staff");
    assert_eq!(one("local all all peer map=").map, None);
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
        ("hostssl all all all md5 map=staff", "only valid for"),
        (
            "hostssl all all all cert krb_realm=x",
            "\"krb_realm\" is only valid for",
        ),
        ("hostssl all all all cert verify-full", "name=value"),
    ];
    for (line, reason) in cases {
        assert!(refusal(line).contains(reason), "{line}: {}", refusal(line));
    }
}
