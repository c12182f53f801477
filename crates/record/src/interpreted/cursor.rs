use crate::field_reader::time;
use crate::number::decimal;

/// Reads pairs from the left of a text, each in its position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    /// The one-word value of ` key=`, if that pair is next.
    pub(super) fn pair(&mut self, key: &[u8]) -> Option<&'a [u8]> {
        let after = self.0.strip_prefix(key)?;
        let len = memchr::memchr(b' ', after).unwrap_or(after.len());
        self.0 = &after[len..];
        Some(&after[..len])
    }

    /// The number of ` key=`; `Some(None)` if the pair is missing, none if its value is not a
    /// number.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: &[u8]) -> Option<Option<T>> {
        match self.pair(key) {
            Some(word) => decimal(word).map(Some),
            None => Some(None),
        }
    }

    /// The time of ` key=`, likewise.
    pub(super) fn time(&mut self, key: &[u8]) -> Option<Option<u64>> {
        match self.pair(key) {
            Some(word) => time(word).map(Some),
            None => Some(None),
        }
    }

    /// The process id of ` vm-pid=`; 0 and -1 mean none.
    pub(super) fn vm_pid(&mut self) -> Option<Option<u32>> {
        match self.pair(b" vm-pid=") {
            None | Some(b"0" | b"-1") => Some(None),
            Some(word) => decimal(word).map(|pid: u32| (pid != 0).then_some(pid)),
        }
    }
}

/// The text before a one-word pair ` key=` at its end, and that pair's value.
pub(super) fn last_pair<'a>(text: &'a [u8], key: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let blank = memchr::memrchr(b' ', text)?;
    Some((&text[..blank], text[blank..].strip_prefix(key)?))
}
