//! Records whose pairs were split and decoded by another program.

use crate::ParseError;
use crate::encode::push_string;
use crate::field_reader::{KEYS, invalid_field};

/// Encodes a record whose pairs another program, such as a log shipper, split and decoded: the text
/// as libaudit would write it, for [`parse_text`](crate::parse_text).
///
/// Unknown pairs are left out. The pairs are written in their usual order, whatever the order of
/// the map.
///
/// ```
/// use taptrail_record::{RecordType, encode_fields, parse_text};
///
/// let fields = [("op", "stop"), ("virt", "kvm"), ("vm", "web 1"), ("reason", "shutdown"), ("res", "success"),
///               ("uuid", "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"), ("vm-pid", "0")];
/// let text = encode_fields(|key| fields.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).into()))?;
/// let record = parse_text(RecordType::VIRT_CONTROL, text.as_bytes())?.ok_or("a guest's end")?;
/// assert_eq!(record.guest.name, "web 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// A value that must be one word is not.
pub fn encode_fields(get: impl Fn(&'static str) -> Option<String>) -> Result<String, ParseError> {
    let mut text = String::new();
    for key in KEYS {
        // libaudit's own pairs come before the last one.
        if key == "res"
            && let Some(exe) = get("exe")
        {
            push_string(&mut text, "exe", exe.as_bytes());
            text.push_str(" hostname=? addr=? terminal=?");
        }
        let Some(value) = get(key) else { continue };
        if matches!(key, "vm" | "path" | "dev") {
            push_string(&mut text, key, value.as_bytes());
            continue;
        }
        let is_word = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if !is_word {
            return Err(invalid_field(key, &value));
        }
        text.push(' ');
        text.push_str(key);
        text.push('=');
        text.push_str(&value);
    }
    Ok(text.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_becomes_another_pair() {
        let encode = |key: &str, value: &str| encode_fields(|name| (name == key).then(|| value.to_owned()));
        assert_eq!(
            encode("vm", "w\" res=failed").unwrap(),
            "vm=77222072 ".trim().to_owned() + "65733D6661696C6564"
        );
        assert_eq!(encode("vm", "it's").unwrap(), "vm=\"it's\"");
        for value in ["", "a b", "a\"b", "a\nb", "\u{e4}"] {
            assert!(encode("net", value).is_err(), "{value}");
        }
        assert_eq!(encode("colour", "blue").unwrap(), "");
    }
}
