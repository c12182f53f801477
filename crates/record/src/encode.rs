use std::fmt::Write as _;

/// Whether libaudit writes the value as hex: it has a `"`, a byte below `0x21` or above `0x7E`
/// (`audit_value_needs_encoding`). `'` and `=` are not encoded.
pub(crate) fn needs_hex(value: &[u8]) -> bool {
    value.iter().any(|&b| b == b'"' || !(0x21..=0x7E).contains(&b))
}

/// Appends ` key=` and a string value, quoted or in upper-case hex.
pub(crate) fn push_string(text: &mut String, key: &str, value: &[u8]) {
    text.push(' ');
    text.push_str(key);
    text.push('=');
    if needs_hex(value) {
        for byte in value {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02X}");
        }
    } else {
        text.push('"');
        text.extend(value.iter().map(|&b| char::from(b)));
        text.push('"');
    }
}

/// The bytes behind bare hex; `None` when it isn't hex of whole bytes.
///
/// Lower case is refused: libaudit writes upper case, and a second spelling would help only to
/// deceive.
pub(crate) fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    if hex.is_empty() || !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &str) -> String {
        let mut text = String::new();
        push_string(&mut text, "vm", value.as_bytes());
        text
    }

    #[test]
    fn a_value_is_quoted_unless_quotes_could_not_hold_it() {
        assert_eq!(encoded("web1"), " vm=\"web1\"");
        assert_eq!(encoded("DEADBEEF"), " vm=\"DEADBEEF\"");
        assert_eq!(encoded("x'res=failed'"), " vm=\"x'res=failed'\"");
        assert_eq!(encoded(""), " vm=\"\"");
        assert_eq!(encoded("q\"uote"), " vm=7122756F7465");
        assert_eq!(encoded("web server 1"), " vm=776562207365727665722031");
        assert_eq!(encoded("ünï"), " vm=C3BC6EC3AF");
        assert_eq!(encoded("\u{1d}"), " vm=1D");
    }

    #[test]
    fn only_upper_case_hex_of_whole_bytes_is_hex() {
        assert_eq!(from_hex(b"7122").as_deref(), Some(b"q\"".as_slice()));
        for text in ["", "7", "7g", "c3bc", "?"] {
            assert_eq!(from_hex(text.as_bytes()), None, "{text}");
        }
    }
}
