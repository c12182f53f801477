/// A plain decimal number: digits only, while `FromStr` also accepts `+1`.
#[inline]
pub(crate) fn decimal<T: TryFrom<u64>>(text: &[u8]) -> Option<T> {
    match leading(text) {
        Some((number, b"")) => T::try_from(number).ok(),
        _ => None,
    }
}

/// The number that a text begins with, and what follows it.
#[inline]
pub(crate) fn leading(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    let mut len = 0;
    while let Some(digit) = text.get(len).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
        // Nineteen digits always fit.
        number = if len < 19 {
            number * 10 + u64::from(digit)
        } else {
            number.checked_mul(10)?.checked_add(u64::from(digit))?
        };
        len += 1;
    }
    (len > 0).then(|| (number, &text[len..]))
}

/// One digit of hex, in either case.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_digits_and_fits() {
        assert_eq!(decimal(b"4294967295"), Some(u32::MAX));
        assert_eq!(decimal(b"007"), Some(7_u8));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal::<u64>(b"18446744073709551616"), None);
        for text in ["", "+1", "-1", "1 ", "0x1", "4294967296", "99999999999999999999999"] {
            assert_eq!(decimal::<u32>(text.as_bytes()), None, "{text}");
        }
    }
}
