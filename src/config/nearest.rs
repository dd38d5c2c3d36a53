//! The known name nearest to an unknown one, for "did you mean".
//!
//! Edit distance with insertion, deletion, substitution and the swap of two
//! neighbours. The invariant: a suggestion is close enough that a reader takes
//! it for the same word; silence is better than a wild guess.

/// The nearest of `known` to `word`, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_ascii_lowercase().chars().take(MAX_LENGTH).collect();
    known
        .into_iter()
        .filter_map(|name| {
            let letters: Vec<char> = name.chars().collect();
            let allowed = 1 + letters.len().min(word.len()) / 4;
            // Cheap, and it keeps an absurdly long key from costing time.
            if letters.len().abs_diff(word.len()) > allowed {
                return None;
            }
            let distance = distance(&word, &letters);
            (distance <= allowed && distance < letters.len()).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Longer words than this have no near neighbour among our keys.
const MAX_LENGTH: usize = 128;

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

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
