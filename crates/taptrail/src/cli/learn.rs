//! The arguments of `taptrail learn-addresses`.

use std::net::Ipv4Addr;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use taptrail_guest::learning::Method;
use taptrail_record::MacAddr;

/// Read the frames by which an interface's addresses are learnt, for its supervisor
#[derive(Debug, Args)]
#[command(after_help = "Standard input is a packet socket, standard output a socket to the supervisor.")]
pub(crate) struct LearnAddresses {
    /// Kind of the interface
    #[arg(value_enum)]
    pub(crate) device: Device,

    /// How its addresses are learnt
    #[arg(value_parser = PossibleValuesParser::new(Method::ALL.map(Method::as_str)).try_map(|text| text.parse::<Method>().map_err(|()| "no such way")))]
    pub(crate) method: Method,

    /// MAC of the guest
    pub(crate) mac: MacAddr,

    /// DHCP servers that are believed [default: all]
    #[arg(value_name = "ADDRESS")]
    pub(crate) servers: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Tap,
    Macvtap,
}
