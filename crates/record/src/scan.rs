//! The first of a byte or two in a text. The words of a record are a few letters long: eight bytes at a
//! time find their ends sooner than a search by vectors has begun.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Where the first `byte` stands.
#[inline]
pub(crate) fn find(byte: u8, text: &[u8]) -> Option<usize> {
    find_either(byte, byte, text)
}

/// Where the first of two bytes stands.
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

/// The high bit of each byte that is zero. A borrow may set more, but only above a true one.
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
