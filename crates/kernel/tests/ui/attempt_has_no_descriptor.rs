//! The descriptor of a freshly opened device is not accessible.

use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::path::Path;

use taptrail_kernel::device::open_vhost_net;

fn main() {
    let opening = open_vhost_net(Path::new("/dev/vhost-net"), NonZeroU16::MIN);
    for attempt in opening.attempts {
        let _ = attempt.as_fd();
    }
}
