//! The known name nearest to an unknown one, for "did you mean".
//!
//! Edit distance with insertion, deletion, substitution and the swap of two
//! neighbours. The invariant: a suggestion is close enough that a reader takes
//! it for the same word; silence is better than a wild guess.

use strsim::osa_distance;

/// The nearest of `known` to `word`, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.to_ascii_lowercase().chars().take(MAX_LENGTH).collect();
    let length = word.chars().count();
    known
        .into_iter()
        .filter_map(|name| {
            let allowed = 1 + name.len().min(length) / 4;
            // Cheap, and it keeps an absurdly long key from costing time.
            if name.len().abs_diff(length) > allowed {
                return None;
            }
            let distance = osa_distance(&word, name);
            (distance <= allowed && distance < name.len()).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Longer words than this have no near neighbour among our keys.
const MAX_LENGTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["query_wait_timeout", "idle_timeout", "port", "pool_mode"];

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(
            nearest("query_wait_timeuot", KNOWN),
            Some("query_wait_timeout")
        );
        assert_eq!(
            nearest("quer_wait_time_out", KNOWN),
            Some("query_wait_timeout")
        );
        assert_eq!(nearest("PORT", KNOWN), Some("port"));
        assert_eq!(nearest("poolmode", KNOWN), Some("pool_mode"));
    }

    #[test]
    fn a_stranger_finds_nothing() {
        assert_eq!(nearest("colour", KNOWN), None);
        assert_eq!(nearest("", KNOWN), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), KNOWN), None);
    }
}
