//! Entry points for fuzz targets. Not part of the API.

use crate::filter::interface_of_message;
use crate::link::answer;
use crate::netlink::messages;
use crate::unix_sockets::UnixSockets;

/// Reads one datagram as each of the kernel's answers and notifications.
pub fn netlink(datagram: &[u8]) {
    let _ = UnixSockets::default().take(datagram);
    for message in messages(datagram) {
        let _ = answer::read(message.payload);
        answer::vlans(message.payload);
        let _ = interface_of_message(message.payload);
    }
}
