//! Detects text that looks like a guest's record, in whatever shape and from whatever writer.

use memchr::memmem;

/// Whether a line in an unknown shape looks like a guest's record: such lines are counted, not
/// skipped silently.
pub(crate) fn resembles_record(line: &[u8]) -> bool {
    let has = |text: &[u8]| memmem::find(line, text).is_some();
    has(b"VIRT_RESOURCE")
        || has(b"VIRT_CONTROL")
        || has(b"\"virt_resource\"")
        || has(b"\"virt_control\"")
        || has(b"type=2501 audit(")
        || has(b"type=2500 audit(")
        || has_word(line, b"resrc=net", true)
        || has_word(line, b"virt=", false)
            && (has_word(line, b"uuid=", false) || has_word(line, b"vm=", false))
}

/// Whether a line contains `word` at the beginning of a word; `whole`: and also at its end.
fn has_word(line: &[u8], word: &[u8], whole: bool) -> bool {
    let is_part = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    memmem::find_iter(line, word).any(|at| {
        let before = at.checked_sub(1).and_then(|before| line.get(before));
        let behind = line.get(at + word.len()).filter(|_| whole);
        !is_part(before) && !is_part(behind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_words() {
        for line in [
            "x VIRT_RESOURCE y",
            "{\"VIRT_CONTROL\":{}}",
            "foo resrc=net",
            "(resrc=net)",
            "a virt=kvm b vm=\\\"w\\\"",
            "'virt=kvm uuid=1'",
            "prefix type=2501 audit(1.000:1): x",
        ] {
            assert!(resembles_record(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "virtual machine",
            "resrc=network",
            "xresrc=net",
            "virt=kvm",
            "kvm-virt=1 vm=2",
            "uuid=1 vm=2",
            "VIRT_MACHINE_ID virt-model=selinux",
            "type=2502 audit(1.000:1): x",
        ] {
            assert!(!resembles_record(line.as_bytes()), "{line}");
        }
    }
}
