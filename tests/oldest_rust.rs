//! The oldest Rust this builds with (`rust-version` in Cargo.toml) is the one Debian 13 ships. What it lacks
//! of the library clippy tells by itself; what it lacks of the language, and code slips into most easily,
//! is told here: conditions joined to a `let` by `&&`, which came with Rust 1.88.

use std::fs;
use std::path::Path;

/// Whether a condition, from its `if` or `while` to its `{`, joins a `let` to anything.
fn is_chain(condition: &str) -> bool {
    let mut depth = 0;
    let mut outside = String::new();
    for c in condition.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ if depth == 0 => outside.push(c),
            _ => {}
        }
    }
    outside.contains("let ") && outside.contains("&&")
}

/// The numbers of the lines where such conditions begin, in a text as rustfmt leaves it.
fn chains(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let words = line.trim_start().trim_start_matches("} else ");
        if !words.starts_with("if ") && !words.starts_with("while ") {
            continue;
        }
        let mut condition = words.to_owned();
        for next in &lines[number + 1..] {
            if condition.ends_with('{') || condition.ends_with('}') {
                break;
            }
            condition.push(' ');
            condition.push_str(next.trim());
        }
        if is_chain(condition.trim_end_matches('{')) {
            found.push(number + 1);
        }
    }
    found
}

fn look_through(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_through(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for line in chains(&text) {
                found.push(format!("{}:{line}", path.display()));
            }
        }
    }
}

#[test]
fn no_condition_needs_a_newer_one() {
    let mut found = Vec::new();
    for directory in ["src", "bench", "tests"] {
        look_through(Path::new(directory), &mut found);
    }
    assert!(
        found.is_empty(),
        "`let` joined by `&&` needs Rust 1.88: {found:#?}"
    );
}

#[test]
fn such_conditions_are_found() {
    let inside = "if let Some(x) = y(a && b) {\n    z();\n}\n";
    assert_eq!(chains(inside), []);
    assert_eq!(chains("if let Some(x) = y && x > 1 {\n}\n"), [1]);
    assert_eq!(
        chains("f();\n    while a\n        && let Some(x) = y\n    {\n    }\n"),
        [2]
    );
    assert_eq!(
        chains("if a {\n    let b = c && d;\n} else if let Some(x) = y && b {\n}\n"),
        [3]
    );
}
