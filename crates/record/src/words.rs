//! The words of enumerations, in one table for both directions.

/// Gives an enumeration `ALL`, `as_str` and `from_word` by one table of its values and their words.
///
/// Internal to this workspace.
#[doc(hidden)]
#[macro_export]
macro_rules! word_table {
    (
        $type:ident:
        $(#[doc = $all:literal])+ ALL,
        $(#[doc = $doc:literal])+ as_str,
        { $($variant:ident = $word:literal,)+ }
    ) => {
        impl $type {
            $(#[doc = $all])+
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            $(#[doc = $doc])+
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// The value with this word; none for another word.
            pub fn from_word(word: impl AsRef<[u8]>) -> Option<Self> {
                let word = word.as_ref();
                $(if word == $word.as_bytes() {
                    return Some(Self::$variant);
                })+
                None
            }
        }
    };
}
