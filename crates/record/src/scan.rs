//! A search for the first of one or two bytes. The words of a record are short: comparing eight
//! bytes at a time is faster there than a vectorised search, whose setup costs more.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The index of the first `byte`.
#[inline]
pub(crate) fn find(byte: u8, text: &[u8]) -> Option<usize> {
    find_either(byte, byte, text)
}

/// The index of the first of two bytes.
#[inline]
pub(crate) fn find_either(one: u8, other: u8, text: &[u8]) -> Option<usize> {
    let (one_each, other_each) = (LOW * u64::from(one), LOW * u64::from(other));
    let (eights, rest) = text.as_chunks::<8>();
    for (index, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        let found = zeros(eight ^ one_each) | zeros(eight ^ other_each);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|&byte| byte == one || byte == other)?;
    Some(text.len() - rest.len() + found)
}

/// Sets the high bit of each byte that is zero. A borrow may set more, but only above a true one.
#[inline]
fn zeros(eight: u64) -> u64 {
    eight.wrapping_sub(LOW) & !eight & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_found_whatever_stands_around_it(
            text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'='), Just(b'!'), any::<u8>()], 0..40),
            (one, other) in prop_oneof![Just((b' ', b'=')), any::<(u8, u8)>()],
        ) {
            prop_assert_eq!(find_either(one, other, &text), text.iter().position(|&b| b == one || b == other));
            prop_assert_eq!(find(one, &text), text.iter().position(|&b| b == one));
        }
    }
}
