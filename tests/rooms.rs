//! A room of `src/` imports only from rooms above it in the list of `src/lib.rs`.
//!
//! Unit tests may import from anywhere: files under `tests/`, and what follows `#[cfg(test)]` at the end of a file.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the ground up, as the table in `src/lib.rs` has them.
fn rooms() -> Vec<String> {
    let map = fs::read_to_string(root().join("lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let rooms: Vec<String> = rows
        .filter_map(|row| row.split_once("`] |"))
        .map(|(room, _)| room.trim_start_matches("mod@").to_owned())
        .collect();
    assert!(rooms.len() > 10, "the table of rooms is read: {rooms:?}");
    rooms
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_room_imports_from_a_later_one() {
    let rooms = rooms();
    let place = |name: &str| rooms.iter().position(|room| room == name);
    let (mut upward, mut seen) = (Vec::new(), 0);
    for (here, room) in rooms.iter().enumerate() {
        let mut all = Vec::new();
        files(&root().join(room), &mut all);
        for path in all {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
            for line in code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
            {
                for import in line.split("crate::").skip(1) {
                    let end = import.find(|c: char| !c.is_alphanumeric() && c != '_');
                    let Some(there) = place(&import[..end.unwrap_or(import.len())]) else {
                        continue;
                    };
                    seen += 1;
                    if there > here {
                        upward.push(format!("{}: {}", path.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(seen > 300, "imports are found: {seen}");
    assert!(upward.is_empty(), "upward imports:\n{}", upward.join("\n"));
}
