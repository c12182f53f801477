//! Limits of what a link sends and receives, by traffic control: tc(8), tc-htb(8), tc-police(8).
//!
//! What a link sends waits in one HTB class. What it receives can't wait, and is dropped above its
//! rate by a policer on the ingress qdisc. Both go with the link.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use rustix::io::Errno;

use super::{LinkError, Links, failure, number};
use crate::netlink::{attribute, u32_at};

/// Bytes of `struct tcmsg`.
const TCMSG: usize = 20;

// linux/rtnetlink.h and linux/pkt_sched.h
const TCA_OPTIONS: u16 = 2;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const HTB_VERSION: u32 = 3;
/// The class for all frames, which is the only one.
const CLASS: TcHandle = TcHandle { major: 1, minor: 1 };
const QDISC: TcHandle = TcHandle { major: 1, minor: 0 };
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: 0 };

// linux/pkt_cls.h
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_POLICE: u16 = 6;
const TCA_POLICE_TBF: u16 = 1;
const TCA_POLICE_RATE: u16 = 2;
const TCA_POLICE_RATE64: u16 = 8;
const TC_POLICE_SHOT: u32 = 2;
const TC_U32_TERMINAL: u8 = 1;
/// `ETH_P_ALL`, and the only priority.
const ALL_PROTOCOLS: u32 = (1 << 16) | (0x0003_u16.to_be() as u32);

/// `TC_LINKLAYER_ETHERNET`: the kernel counts bytes, and needs no table of times.
const LINKLAYER_ETHERNET: u8 = 1;
/// A policer needs a table all the same (`qdisc_get_rtab()`), and does not read it.
const TABLE: [u8; 1024] = [0; 1024];
const CELL_LOG: u8 = 8;

/// The kernel's unit of time for bursts (`PSCHED_SHIFT` in include/net/pkt_sched.h).
const NANOSECONDS_PER_TICK: u128 = 64;

/// The largest frame of a guest with segmentation offload: a policer drops every frame that is
/// longer than its burst.
const LARGEST_FRAME_BYTES: u64 = 65_536 + 64;

const LIMIT_SENT: &str = "limit what it sends";
const LIMIT_RECEIVED: &str = "limit what it receives";

/// A limit in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes a second.
    pub average: u64,
    /// Bytes a second that are sent if nothing else has to be; the average, if there is none. A
    /// limit of what is received has no use for it.
    pub peak: Option<u64>,
    /// Bytes that may pass at once.
    pub burst: Option<u64>,
}

impl Bandwidth {
    /// Bytes that what is sent may have at once: by default those of 4 ms, and one frame.
    fn sent_burst(&self, rate: u64) -> u64 {
        self.burst.unwrap_or(rate / 250 + 1600)
    }

    /// Bytes that what is received may have at once: by default those of a second, and one frame at
    /// least.
    fn received_burst(&self) -> u64 {
        self.burst.unwrap_or(self.average.max(LARGEST_FRAME_BYTES))
    }
}

impl Links {
    /// Limits what a link sends, in place of its default qdisc, and reads it back.
    ///
    /// # Errors
    ///
    /// The link has a qdisc of somebody else's, or the kernel has no HTB.
    pub fn limit_sent(&mut self, index: u32, limit: &Bandwidth) -> Result<(), LinkError> {
        let glob = numbers(&[HTB_VERSION, 10, CLASS.minor.into(), 0, 0]);
        let root = message(index, QDISC, TcHandle::ROOT, 0, "htb", nested(&[(TCA_HTB_INIT, &glob)]));
        self.create(index, RouteNetlinkMessage::NewQueueDiscipline(root), LIMIT_SENT)?;

        let ceiling = limit.peak.unwrap_or(limit.average);
        let buffer = ticks(limit.sent_burst(limit.average), limit.average);
        let ceiling_buffer = ticks(limit.sent_burst(ceiling), ceiling);
        let mut options = [rate_spec(limit.average, 0), rate_spec(ceiling, 0)].concat();
        // Quantum by the rate, and one level.
        options.extend(numbers(&[buffer, ceiling_buffer, 0, 0, 0]));
        let options = nested(&[
            (TCA_HTB_PARMS, &options),
            (TCA_HTB_RATE64, &limit.average.to_ne_bytes()),
            (TCA_HTB_CEIL64, &ceiling.to_ne_bytes()),
        ]);
        let class = message(index, CLASS, QDISC, 0, "htb", options);
        self.create(index, RouteNetlinkMessage::NewTrafficClass(class), LIMIT_SENT)?;

        let listing = TcMessage::with_index(index.cast_signed());
        let found = self.listed(index, RouteNetlinkMessage::GetTrafficClass(listing), LIMIT_SENT)?;
        let found = found.iter().find_map(|options| {
            let parameters = attribute(options, TCA_HTB_PARMS)?;
            let wide = |kind, at| match attribute(options, kind).and_then(u64_of) {
                Some(rate) => Some(rate),
                None => u32_at(parameters, at).map(u64::from),
            };
            Some((wide(TCA_HTB_RATE64, 8)?, wide(TCA_HTB_CEIL64, 20)?, u32_at(parameters, 24)?))
        });
        let describe =
            |(rate, ceiling, burst)| format!("{rate} to {ceiling} bytes/s, burst of {burst} ticks");
        same(index, LIMIT_SENT, (limit.average, ceiling, buffer), found, describe)
    }

    /// Limits what a link receives, and reads it back.
    ///
    /// # Errors
    ///
    /// The link has an ingress qdisc, or the kernel has no policer.
    pub fn limit_received(&mut self, index: u32, limit: &Bandwidth) -> Result<(), LinkError> {
        let qdisc = message(index, INGRESS, TcHandle::INGRESS, 0, "ingress", Vec::new());
        self.create(index, RouteNetlinkMessage::NewQueueDiscipline(qdisc), LIMIT_RECEIVED)?;

        let burst = ticks(limit.received_burst(), limit.average);
        let mut police = numbers(&[0, TC_POLICE_SHOT, 0, burst, u32::MAX]);
        police.extend(rate_spec(limit.average, CELL_LOG));
        police.extend(rate_spec(0, 0));
        police.extend(numbers(&[0, 0, 0]));
        let wide = limit.average.to_ne_bytes();
        let mut attributes = vec![(TCA_POLICE_TBF, police.as_slice()), (TCA_POLICE_RATE, &TABLE)];
        if limit.average > u32::MAX.into() {
            attributes.push((TCA_POLICE_RATE64, &wide));
        }
        let police = nested(&attributes);
        // One key, which matches every frame: no bit of its first four bytes counts.
        let mut selector = vec![TC_U32_TERMINAL, 0, 1];
        selector.resize(16 + 16, 0);
        let options = nested(&[
            (TCA_U32_CLASSID, &1_u32.to_ne_bytes()),
            (TCA_U32_SEL, &selector),
            (TCA_U32_POLICE, &police),
        ]);
        let filter = message(index, TcHandle::UNSPEC, INGRESS, ALL_PROTOCOLS, "u32", options);
        self.create(index, RouteNetlinkMessage::NewTrafficFilter(filter), LIMIT_RECEIVED)?;

        let mut listing = TcMessage::with_index(index.cast_signed());
        listing.header.parent = INGRESS;
        let found = self.listed(index, RouteNetlinkMessage::GetTrafficFilter(listing), LIMIT_RECEIVED)?;
        let found = found.iter().find_map(|options| {
            let police = attribute(options, TCA_U32_POLICE)?;
            let parameters = attribute(police, TCA_POLICE_TBF)?;
            let rate = match attribute(police, TCA_POLICE_RATE64).and_then(u64_of) {
                Some(rate) => rate,
                None => u32_at(parameters, 28)?.into(),
            };
            Some((rate, u32_at(parameters, 12)?))
        });
        let describe = |(rate, burst)| format!("{rate} bytes/s, burst of {burst} ticks");
        same(index, LIMIT_RECEIVED, (limit.average, burst), found, describe)
    }

    /// Removes the limit of what a link sends; none is no error.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn end_limit_sent(&mut self, index: u32) -> Result<(), LinkError> {
        self.end_limit(index, QDISC, TcHandle::ROOT, "htb", LIMIT_SENT)
    }

    /// Removes the limit of what a link receives; none is no error.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn end_limit_received(&mut self, index: u32) -> Result<(), LinkError> {
        self.end_limit(index, INGRESS, TcHandle::INGRESS, "ingress", LIMIT_RECEIVED)
    }

    fn end_limit(
        &mut self,
        index: u32,
        handle: TcHandle,
        parent: TcHandle,
        kind: &str,
        operation: &'static str,
    ) -> Result<(), LinkError> {
        let qdisc = message(index, handle, parent, 0, kind, Vec::new());
        match self.change(index, RouteNetlinkMessage::DelQueueDiscipline(qdisc), operation) {
            // There is none of this handle and kind.
            Err(LinkError::Refused { source: Errno::NOENT | Errno::INVAL, .. }) => Ok(()),
            ended => ended,
        }
    }

    /// The options of each class or filter that is listed.
    fn listed(
        &mut self,
        index: u32,
        message: RouteNetlinkMessage,
        operation: &'static str,
    ) -> Result<Vec<Vec<u8>>, LinkError> {
        let answers =
            self.socket.dump(&message).map_err(|failed| failure(failed, operation, number(index)))?;
        let options = |answer: &Vec<u8>| {
            let of_link = u32_at(answer, 4) == Some(index);
            let attributes = answer.get(TCMSG..).filter(|_| of_link)?;
            attribute(attributes, TCA_OPTIONS).map(<[u8]>::to_vec)
        };
        Ok(answers.iter().filter_map(options).collect())
    }
}

/// Compares what was set with what the kernel has.
fn same<T: PartialEq>(
    index: u32,
    operation: &'static str,
    wanted: T,
    found: Option<T>,
    describe: impl Fn(T) -> String,
) -> Result<(), LinkError> {
    match found {
        Some(found) if found == wanted => Ok(()),
        found => Err(LinkError::Differs {
            link: number(index),
            operation,
            wanted: describe(wanted),
            found: found.map_or_else(|| "nothing".to_owned(), describe),
        }),
    }
}

fn message(
    index: u32,
    handle: TcHandle,
    parent: TcHandle,
    info: u32,
    kind: &str,
    options: Vec<u8>,
) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    (message.header.handle, message.header.parent, message.header.info) = (handle, parent, info);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    message
}

/// The time that some bytes take, in the kernel's ticks; at most what its field holds, which is 274
/// seconds.
fn ticks(bytes: u64, rate: u64) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(nanoseconds / NANOSECONDS_PER_TICK).unwrap_or(u32::MAX)
}

/// `struct tc_ratespec`; a rate that does not fit is in an attribute of its own.
fn rate_spec(rate: u64, cell_log: u8) -> Vec<u8> {
    let mut bytes = vec![cell_log, LINKLAYER_ETHERNET, 0, 0, 0xff, 0xff, 0, 0];
    bytes.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn u64_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_ne_bytes)
}

/// Attributes one after the other (`struct nlattr`), as the value of another one.
fn nested(all: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in all {
        // A table of rates is the longest.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(*value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    #[test]
    fn a_burst_is_the_time_that_it_takes() {
        // 1 MB at 1 MB/s is a second.
        assert_eq!(ticks(1_000_000, 1_000_000), 15_625_000);
        assert_eq!(ticks(u64::MAX, 1), u32::MAX);
        let default = Bandwidth { average: 1000, peak: None, burst: None };
        assert_eq!((default.sent_burst(1000), default.received_burst()), (1604, 65_600));
    }

    #[test]
    fn attributes_read_back_as_they_are_written() {
        let bytes = nested(&[(1, &[1, 2, 3]), (7, &[9; 8])]);
        let read: Vec<(u16, &[u8])> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &[1, 2, 3][..]), (7, &[9; 8][..])]);
    }
}
