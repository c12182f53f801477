//! `taptrail learn-addresses`, which is hidden: a supervisor runs it for each interface whose filter
//! learns addresses.

use std::process::ExitCode;

use anyhow::Context as _;
use taptrail_guest::learning::{FrameReader, learn_addresses};
use taptrail_kernel::filter::Attachment;

use crate::CommandResult;
use crate::cli::{LearnAddresses, LearningDevice};

pub(crate) fn learn(arguments: &LearnAddresses) -> CommandResult {
    let LearnAddresses { device, method, mac, servers } = arguments;
    let attachment = match device {
        LearningDevice::Tap => Attachment::Tap,
        LearningDevice::Macvtap => Attachment::Macvtap,
    };
    let reader = FrameReader { mac: *mac, method: *method, servers: servers.clone() };
    learn_addresses(&reader, attachment).context("Frames can't be read")?;
    Ok(ExitCode::SUCCESS)
}
