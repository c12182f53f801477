use std::str::FromStr;

/// A plain decimal number: digits only, where `FromStr` alone would take `+1` as well.
pub(crate) fn decimal<T: FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
