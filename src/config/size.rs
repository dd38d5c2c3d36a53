//! Sizes in bytes as operators write them: a number, or a number with a unit.
//!
//! Units are powers of 1024, with or without the `B`. The invariant: what is
//! returned is the exact number of bytes; anything that does not fit is refused.

/// Reads `"1MB"`, `"64k"`, `"512"`.
///
/// # Errors
/// The reason as a sentence for the operator, with the text quoted.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.len()
        - trimmed
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let (number, suffix) = trimmed.split_at(digits);
    let factor: u64 = match suffix.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return Err(refuse(text)),
    };
    if number.is_empty() {
        return Err(refuse(text));
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "size is too large".to_string())
}

fn refuse(text: &str) -> String {
    let text = super::problem::quote(text);
    format!("{text} is not a size; write bytes or e.g. \"1MB\" (units: B, KB, MB, GB)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_a_power_of_1024() {
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("512B"), Ok(512));
        assert_eq!(parse("64k"), Ok(65_536));
        assert_eq!(parse(" 1 Mb "), Ok(1_048_576));
        assert_eq!(parse("2G"), Ok(2_147_483_648));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "MB", "1.5MB", "-1", "1TB", "one"] {
            assert!(parse(text).unwrap_err().contains("is not a size"), "{text}");
        }
        assert_eq!(
            parse("18446744073709551615GB"),
            Err("size is too large".into())
        );
    }
}
