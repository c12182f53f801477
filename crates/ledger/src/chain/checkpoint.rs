use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{Head, SINCE_VERSION, Start};
use crate::{Ledger, LedgerError};

/// A SHA-256 of the ledger's chain. As text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub(super) [u8; 32]);

impl ChainHash {
    /// Stands for a hash that is missing.
    pub(super) const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainHash({self})")
    }
}

impl FromStr for ChainHash {
    type Err = InvalidCheckpoint;

    fn from_str(text: &str) -> Result<Self, InvalidCheckpoint> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidCheckpoint::Field("sha256"));
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(InvalidCheckpoint::Field("sha256"));
            };
            *byte = u8::try_from(high << 4 | low).unwrap_or_default();
        }
        Ok(Self(hash))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The state of a ledger's chain at one moment, to be kept where nobody who can write the ledger
/// can change it. Not the watcher's [`Checkpoint`](crate::Checkpoint), which is a position in a log.
///
/// Its text is one line of ASCII. It is found within a longer line, such as one of syslog:
///
/// ```
/// # use taptrail_ledger::ChainCheckpoint;
/// let line = "taptrail-checkpoint v=1 ledger=0b9a3f5e-8f3c-4f0e-9d5a-2f1f0c9f7a11 row=1234 \
///     sha256=a3c1f07be14c54ee2a87b31a0a5f6f3d6d6f9b8f4f0d3c2b1a0f9e8d7c6b5a49 \
///     time=2026-01-31T12:00:00.000Z host=h1";
/// let checkpoint: ChainCheckpoint = line.parse()?;
/// assert_eq!((checkpoint.row, checkpoint.to_string().as_str()), (1234, line));
/// assert_eq!(format!("Jan 31 h1 taptrail: {line}").parse::<ChainCheckpoint>()?, checkpoint);
/// # Ok::<_, taptrail_ledger::InvalidCheckpoint>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainCheckpoint {
    /// The ledger's own random UUID.
    pub ledger: Uuid,
    /// The number of the chain's last row; 0 if it has none yet.
    pub row: u64,
    /// That row's hash.
    pub sha256: ChainHash,
    /// When the checkpoint was taken.
    #[serde(serialize_with = "milliseconds")]
    pub time: Timestamp,
    /// The host's name, if it is plain: letters, digits, `.`, `_` and `-`. Nothing depends on it.
    #[serde(default)]
    pub host: Option<String>,
}

fn milliseconds<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.3}"))
}

/// How each checkpoint's text begins.
const MARK: &str = "taptrail-checkpoint v=1";

/// The longest line in which a checkpoint is looked for, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// The longest host name, in bytes: Linux has 64 at most (`HOST_NAME_MAX`), DNS 253.
const MAX_HOST_BYTES: usize = 253;

/// Why a text is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheckpoint {
    /// It has no checkpoint in it.
    #[error("it has no '{MARK}'")]
    NoMark,
    /// It is longer than a line with a checkpoint.
    #[error("it is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// A field is missing, is there twice, or has no such value.
    #[error("its '{0}=' is missing, there twice, or not what taptrail writes (was the line cut or wrapped?)")]
    Field(&'static str),
}

impl ChainCheckpoint {
    /// Whether a line has a checkpoint, which may be invalid.
    pub fn is_in(line: &str) -> bool {
        line.contains(MARK)
    }

    /// The same for this host; without a host if the name is not plain.
    #[must_use]
    pub fn with_host(self, host: &str) -> Self {
        Self { host: is_plain(host).then(|| host.to_owned()), ..self }
    }
}

fn is_plain(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_HOST_BYTES).contains(&host.len()) && host.bytes().all(plain)
}

impl fmt::Display for ChainCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ledger, row, sha256, time, host } = self;
        write!(f, "{MARK} ledger={ledger} row={row} sha256={sha256} time={time:.3}")?;
        host.as_ref().filter(|host| is_plain(host)).map_or(Ok(()), |host| write!(f, " host={host}"))
    }
}

impl FromStr for ChainCheckpoint {
    type Err = InvalidCheckpoint;

    fn from_str(line: &str) -> Result<Self, InvalidCheckpoint> {
        if line.len() > MAX_LINE_BYTES {
            return Err(InvalidCheckpoint::TooLong);
        }
        let (_, fields) = line.split_once(MARK).ok_or(InvalidCheckpoint::NoMark)?;
        let field = |name: &'static str| {
            let mut values = fields.split_ascii_whitespace().filter_map(|word| {
                let (key, value) = word.split_once('=')?;
                (key == name).then_some(value)
            });
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                _ => Err(InvalidCheckpoint::Field(name)),
            }
        };
        fn parsed<T: FromStr>(name: &'static str, value: Option<&str>) -> Result<T, InvalidCheckpoint> {
            value.and_then(|value| value.parse().ok()).ok_or(InvalidCheckpoint::Field(name))
        }
        let host = field("host")?;
        if !host.is_none_or(is_plain) {
            return Err(InvalidCheckpoint::Field("host"));
        }
        Ok(Self {
            ledger: parsed("ledger", field("ledger")?)?,
            row: parsed("row", field("row")?)?,
            sha256: parsed("sha256", field("sha256")?)?,
            time: parsed("time", field("time")?)?,
            host: host.map(str::to_owned),
        })
    }
}

impl Ledger {
    /// The end of the ledger's chain now, without a host. None if the ledger has no chain: an older
    /// taptrail made it, and no newer one has opened it for writing yet.
    ///
    /// It says nothing about the rows before: see [`check_chain`](Self::check_chain).
    ///
    /// # Errors
    ///
    /// The query fails, or the beginning of the chain is missing or invalid.
    pub fn chain_checkpoint(&self) -> Result<Option<ChainCheckpoint>, LedgerError> {
        let failed = |source| LedgerError::Read { source };
        if self.version < SINCE_VERSION {
            return Ok(None);
        }
        let reading = self.connection.unchecked_transaction().map_err(failed)?;
        let invalid = |value: &str| crate::read::invalid_row("chain_start", 1, value, "beginning of a chain");
        let start = Start::read(&reading).map_err(failed)?.ok_or_else(|| invalid("nothing"))?;
        let head = Head::read(&reading).map_err(failed)?;
        reading.finish().map_err(failed)?;
        Ok(Some(ChainCheckpoint {
            ledger: start.ledger.parse().map_err(|_| invalid(&start.ledger))?,
            row: u64::try_from(head.number).map_err(|_| invalid(&head.number.to_string()))?,
            sha256: head.hash,
            // As its text has it.
            time: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
            host: None,
        }))
    }
}
