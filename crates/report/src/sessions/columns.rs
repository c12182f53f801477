//! The columns of a trail's table, as `-o` names them.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// Generates [`Column`] and its words.
macro_rules! columns {
    ($($(#[doc = $doc:literal])+ $column:ident = $word:literal, $header:literal;)+) => {
        /// A column of a trail's table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Column {
            $($(#[doc = $doc])+ $column,)+
        }

        impl Column {
            /// All columns.
            pub const ALL: &'static [Self] = &[$(Self::$column,)+];

            /// Its word in `-o`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$column => $word,)+
                }
            }

            /// Its heading in the table.
            pub(crate) fn header(self) -> &'static str {
                match self {
                    $(Self::$column => $header,)+
                }
            }

            /// One sentence that explains it.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Self::$column => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

columns! {
    /// The host.
    Host = "host", "HOST";
    /// The guest's name.
    Guest = "guest", "GUEST";
    /// The guest's UUID.
    Uuid = "uuid", "UUID";
    /// The interface's MAC.
    Mac = "mac", "MAC";
    /// The devices of the interface, with the number of their queues.
    Devices = "devices", "DEVICES";
    /// When the first device was opened, or the open failed.
    Opened = "opened", "OPENED";
    /// When QEMU got the interface.
    From = "from", "FROM";
    /// When it was released, or what is known instead: held, opening, unknown, possibly-held.
    To = "to", "TO";
    /// Until when QEMU may have had it, though no record says that it got it.
    Until = "until", "UNTIL";
    /// How long QEMU had it.
    For = "for", "FOR";
    /// What ended it.
    End = "end", "END";
    /// How sure it is: definitive, inferred, ambiguous, incomplete or doubtful.
    Basis = "basis", "BASIS";
    /// The process id of QEMU.
    Pid = "pid", "PID";
    /// The state: held, released, opening, unknown, never-granted or open-failed.
    State = "state", "STATE";
    /// The first record that shows it, as FILE:LINE (serial N).
    Proof = "proof", "PROOF";
    /// The device's kind; a row for each device.
    Device = "device", "DEVICE";
    /// The path that was opened; a row for each device.
    Path = "path", "PATH";
    /// The host interface behind the device; a row for each device.
    Ifname = "ifname", "IFNAME";
    /// The device number; a row for each device.
    Rdev = "rdev", "RDEV";
    /// The number of the device's open(2)s, one for each queue; a row for each device.
    Queues = "queues", "QUEUES";
}

/// The columns that a table shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Columns {
    /// A row for each interface session. Columns that have no room are dropped.
    #[default]
    Sessions,
    /// A row for each device. Columns that have no room are dropped.
    Devices,
    /// Exactly these columns. With one of a device, there is a row for each device.
    These(Vec<Column>),
}

impl Columns {
    /// Whether there is a row for each device.
    pub(crate) fn are_of_devices(&self) -> bool {
        use Column::{Device, Ifname, Path, Queues, Rdev};
        match self {
            Self::Sessions => false,
            Self::Devices => true,
            Self::These(columns) => {
                columns.iter().any(|of| matches!(of, Device | Path | Ifname | Rdev | Queues))
            }
        }
    }
}

impl FromStr for Columns {
    type Err = ColumnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let column = |word: &str| {
            let found = Column::ALL.iter().find(|column| column.as_str().eq_ignore_ascii_case(word.trim()));
            found.copied().ok_or_else(|| ColumnError(word.to_owned()))
        };
        text.split(',').map(column).collect::<Result<_, _>>().map(Self::These)
    }
}

/// A word that names no column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnError(String);

impl fmt::Display for ColumnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = Column::ALL.iter().map(|column| column.as_str()).collect();
        write!(f, "no column '{}'; the columns are {}", crate::escape_name(&self.0), words.join(", "))
    }
}

impl Error for ColumnError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_by_their_headings_in_any_case() {
        let columns: Columns = "guest,MAC, from".parse().unwrap();
        assert_eq!(columns, Columns::These(vec![Column::Guest, Column::Mac, Column::From]));
        assert!(!columns.are_of_devices());
        assert!("mac,path".parse::<Columns>().unwrap().are_of_devices());
        for column in Column::ALL {
            assert_eq!(column.as_str().parse(), Ok(Columns::These(vec![*column])));
            assert_eq!(column.header().to_lowercase(), column.as_str());
        }
    }

    #[test]
    fn an_unknown_column_is_answered_with_the_known_ones() {
        let error = "guest,when\x1b".parse::<Columns>().unwrap_err().to_string();
        assert!(error.starts_with("no column 'when\\u{1b}'; the columns are host, guest,"), "{error}");
        assert!("".parse::<Columns>().is_err());
    }
}
