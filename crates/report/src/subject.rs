//! What a query is about, as a user names it in one word: a MAC, a device or a guest.

use std::str::FromStr;

use taptrail_record::{Device, GuestId, MacAddr, Rdev};
use taptrail_trail::Holding;
use uuid::Uuid;

use crate::filter::{DeviceFilter, GuestFilter};
use crate::text::escape_name;

/// The subject of a query, by all readings that its text has: `vnet0` is a host interface or a
/// guest's name, `525400123456` a MAC or a guest's name. It matches what one of them matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    text: String,
    mac: Option<MacAddr>,
    device: Option<DeviceFilter>,
    guest: Option<GuestFilter>,
}

/// What the text names can't be known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It names nothing.
    #[error(
        "'{0}' names nothing: a MAC, a device (/dev/tap7, vnet0, 0A:C8, tun, macvtap, vhost-net, vhost-vdpa, \
         vhost-user), or a guest's name or UUID is needed"
    )]
    Nothing(String),
    /// It is written as a MAC and is none. That no record has it would be no answer.
    #[error(
        "'{0}' looks like a MAC and is none: a MAC has six pairs of hex digits (52:54:00:12:34:56); a guest of this \
         name can be named by its UUID"
    )]
    NoMac(String),
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut subject = Self { text: text.to_owned(), mac: None, device: None, guest: None };
        if text.is_empty() || text.starts_with('/') && text.trim_matches('/').is_empty() {
            return Err(SubjectError::Nothing(text.to_owned()));
        }
        subject.mac = MacAddr::from_any_form(text).ok();
        if subject.mac.is_none() && is_like_mac(text) {
            return Err(SubjectError::NoMac(text.to_owned()));
        }
        let bare = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if subject.mac.is_some() && !bare {
            return Ok(subject);
        }
        let is_place = text.starts_with('/') || text.parse::<Rdev>().is_ok();
        if subject.mac.is_none() && text.parse::<Uuid>().is_err() {
            subject.device = text.parse().ok();
        }
        if !is_place {
            subject.guest = text.parse().ok();
        }
        Ok(subject)
    }
}

impl Subject {
    /// The text as the user wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The MAC that it is, if it may be one.
    pub fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    /// The device that it is, if it may be one.
    pub fn device(&self) -> Option<&DeviceFilter> {
        self.device.as_ref()
    }

    /// The guest that it is, if it may be one.
    pub fn guest(&self) -> Option<&GuestFilter> {
        self.guest.as_ref()
    }

    /// The guest's name that the text is, if it may be one.
    pub fn guest_name(&self) -> Option<&str> {
        match &self.guest {
            Some(GuestFilter::Name(name)) => Some(name),
            _ => None,
        }
    }

    /// Whether one of its readings matches. `unnamed` is the result for a reading whose part is not
    /// given.
    pub(crate) fn matches(
        &self,
        guest: Option<&GuestId>,
        mac: Option<MacAddr>,
        device: Option<&Device>,
        unnamed: bool,
    ) -> bool {
        self.mac.is_some_and(|asked| mac.map_or(unnamed, |mac| mac == asked))
            || self.device.as_ref().is_some_and(|asked| device.map_or(unnamed, |of| asked.matches(of)))
            || self.guest.as_ref().is_some_and(|asked| guest.map_or(unnamed, |of| asked.matches(of)))
    }

    /// Whether the records of a device lack what the subject names.
    pub(crate) fn is_missing_in(&self, device: &Device) -> bool {
        self.device.as_ref().is_some_and(|asked| asked.is_missing_in(device))
    }

    /// For a text with several readings, by which of them some holdings match; none if there is only
    /// one reading.
    pub(crate) fn readings<'a>(&self, holdings: impl Iterator<Item = &'a Holding>) -> Option<String> {
        let readings = [self.mac.is_some(), self.device.is_some(), self.guest.is_some()];
        if readings.iter().filter(|is| **is).count() < 2 {
            return None;
        }
        let (mut mac, mut device, mut guest) = (false, false, false);
        for of in holdings {
            mac |= self.mac == Some(of.mac);
            device |= self.device.as_ref().is_some_and(|asked| asked.matches(&of.device));
            guest |= self.guest.as_ref().is_some_and(|asked| asked.matches(&of.guest));
        }
        let named = |is: bool, what: String| is.then_some(what);
        let found: Vec<String> = [
            named(mac, format!("the MAC {}", self.mac.map(|mac| mac.to_string()).unwrap_or_default())),
            named(device, "a device".to_owned()),
            named(guest, "a guest's name".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        // What is a device or a guest and was found as one of them is clear from the answer.
        let is_clear = found.len() < 2 && (self.mac.is_none() || found.is_empty());
        (!is_clear).then(|| format!("'{}' is {} here", escape_name(&self.text), found.join(" and ")))
    }
}

/// Whether a text is written as a MAC: five to seven groups of one to four characters with `:`,
/// `-`, `.` or a blank between, and most of them two hex digits. What has other groups may be a
/// guest's name (`web-01-eu`), and with four groups an address of PCI or IP.
fn is_like_mac(text: &str) -> bool {
    [':', '-', '.', ' '].iter().any(|separator| {
        let groups: Vec<&str> = text.split(*separator).collect();
        let is_short = |group: &&str| (1..=4).contains(&group.len());
        let is_pair = |group: &&&str| group.len() == 2 && group.bytes().all(|byte| byte.is_ascii_hexdigit());
        let pairs = groups.iter().filter(is_pair).count();
        (5..=7).contains(&groups.len()) && groups.iter().all(is_short) && pairs >= 3
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::holding;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn readings(text: &str) -> [bool; 3] {
        let subject = subject(text);
        [subject.mac.is_some(), subject.device.is_some(), subject.guest.is_some()]
    }

    #[test]
    fn a_text_has_all_its_readings() {
        for text in ["52:54:00:00:00:01", "52-54-00-00-00-01", "5254.0000.0001", "52:54:00:AB:00:01"] {
            assert_eq!(readings(text), [true, false, false], "{text}");
        }
        assert_eq!(readings("525400000001"), [true, false, true]);
        for text in ["/dev/tap7", "0A:C8"] {
            assert_eq!(readings(text), [false, true, false], "{text}");
        }
        for text in ["vnet0", "tun", "web1", "f:1"] {
            assert!(!readings(text)[0], "{text}");
        }
        for text in ["vnet0", "tun", "web1"] {
            assert_eq!(readings(text), [false, true, true], "{text}");
        }
        for text in ["a guest with blanks", "52:54:00", "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"] {
            assert_eq!(readings(text), [false, false, true], "{text}");
        }
        for text in ["", "/", "//"] {
            assert!(text.parse::<Subject>().unwrap_err().to_string().contains("names nothing"), "{text}");
        }
    }

    #[test]
    fn one_reading_that_matches_is_enough() {
        let web = holding("web1", 1, 10, None);
        let matches = |text: &str, of: &Holding| {
            subject(text).matches(Some(&of.guest), Some(of.mac), Some(&of.device), false)
        };
        let uuid = web.guest.uuid.to_string();
        for text in ["web1", "tun", "vnet0", "/dev/net/tun", "0A:C8", "525400000001", &uuid] {
            assert!(matches(text, &web), "{text}");
        }
        for text in ["web", "macvtap", "vnet1", "/dev/tap7", "525400000002"] {
            assert!(!matches(text, &web), "{text}");
        }
        assert!(matches("525400000001", &holding("525400000001", 2, 10, None)));
        assert!(matches("tun", &holding("tun", 2, 10, None)));
    }

    #[test]
    fn an_answer_to_an_ambiguous_text_says_what_was_found() {
        let by_mac = holding("web1", 1, 10, None);
        let by_name = holding("525400000001", 2, 10, None);
        let found = |text: &str, all: &[&Holding]| subject(text).readings(all.iter().copied());
        let mac = "'525400000001' is the MAC 52:54:00:00:00:01";
        assert_eq!(found("525400000001", &[&by_mac]), Some(format!("{mac} here")));
        assert_eq!(
            found("525400000001", &[&by_mac, &by_name]),
            Some(format!("{mac} and a guest's name here"))
        );
        assert_eq!(
            found("525400000001", &[&by_name]),
            Some("'525400000001' is a guest's name here".to_owned())
        );
        assert_eq!(found("52:54:00:00:00:01", &[&by_mac]), None);
        assert_eq!(found("vnet0", &[&by_mac]), None);
        let named = holding("vnet0", 2, 10, None);
        assert_eq!(
            found("vnet0", &[&by_mac, &named]),
            Some("'vnet0' is a device and a guest's name here".to_owned())
        );
        assert_eq!(found("525400000001", &[]), None);
    }

    #[test]
    fn a_mac_with_a_typo_is_no_name() {
        for text in [
            "52:54:00:14:01",
            "52:54:00:14:01:0g",
            "52:54:00:14:01:02:03",
            "52:54:0:14:1:02",
            "5254:00:14:01:02",
            "52.54.00.14.01.02",
            "52 54 00 14 01 02",
            "52-54-00-14-01-O2",
        ] {
            let error = text.parse::<Subject>().unwrap_err();
            assert!(matches!(error, SubjectError::NoMac(_)), "{text}: {error}");
        }
        for text in ["web-01-eu-a-7", "a.b.c.d.example.org", "0000:03:00.0", "10.0.20.30", "0A:C8", "vnet0"] {
            assert!(text.parse::<Subject>().is_ok(), "{text}");
        }
    }
}
