//! A vDPA network card that this process is: VDUSE (Documentation/userspace-api/vduse.rst) makes it
//! of the replies given here, and passes no frames. `tests/e2e/devices.rs` has QEMU hold it.
//!
//! `vduse_nic NAME MAC`: prints `ready` once the device can be added by vdpa(8), and serves it until
//! it is killed. Needs Linux 6.11 and the module vduse.

#![allow(unsafe_code, reason = "ioctl(2) has no safe name")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

/// `struct vduse_dev_config` (linux/vduse.h) with the configuration of a network card behind it.
#[repr(C)]
struct DeviceConfig {
    name: [u8; 256],
    vendor_id: u32,
    device_id: u32,
    features: u64,
    vq_num: u32,
    vq_align: u32,
    reserved: [u32; 13],
    config_size: u32,
    config: NetConfig,
}

/// The first fields of `struct virtio_net_config` (linux/virtio_net.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct NetConfig {
    mac: [u8; 6],
    status: u16,
    max_virtqueue_pairs: u16,
    mtu: u16,
    rest: [u32; 3],
}

/// `struct vduse_vq_config`.
#[repr(C)]
struct QueueConfig {
    index: u32,
    max_size: u16,
    reserved: [u16; 13],
}

/// Requests and replies have one size: a type or an id, a number, and a union.
const MESSAGE_BYTES: usize = 152;
/// `VDUSE_GET_VQ_STATE`, the one request that wants more than a yes.
const GET_QUEUE_STATE: u32 = 0;

/// `_IOW(VDUSE_BASE, number, …)` of so many bytes.
const fn write_request(number: libc::Ioctl, bytes: usize) -> libc::Ioctl {
    (1 << 30) | ((bytes as libc::Ioctl) << 16) | (0x81 << 8) | number
}

fn control<T>(file: &File, request: libc::Ioctl, argument: &T) {
    // SAFETY: the request reads one `T`, whose size its number has.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_ref(argument)) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn open(path: &str) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect(path)
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (name, mac) = (words.next().expect("a name"), words.next().expect("a MAC"));
    let mac: taptrail_record::MacAddr = mac.parse().expect("a MAC");
    let vduse = open("/dev/vduse/control");
    control(&vduse, write_request(0x01, 8), &0_u64);
    let mut device = DeviceConfig {
        name: [0; 256],
        vendor_id: 0,
        device_id: 1,
        // VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, and what the configuration has: MTU, MAC,
        // status.
        features: 1 << 32 | 1 << 33 | 1 << 3 | 1 << 5 | 1 << 16,
        vq_num: 2,
        vq_align: 4096,
        reserved: [0; 13],
        config_size: u32::try_from(size_of::<NetConfig>()).unwrap(),
        config: NetConfig { mac: mac.0, status: 1, max_virtqueue_pairs: 1, mtu: 1500, rest: [0; 3] },
    };
    device.name[..name.len()].copy_from_slice(name.as_bytes());
    // The configuration behind the structure counts nothing.
    control(&vduse, write_request(0x02, std::mem::offset_of!(DeviceConfig, config)), &device);
    let mut card = open(&format!("/dev/vduse/{name}"));
    for index in 0..2 {
        let queue = QueueConfig { index, max_size: 256, reserved: [0; 13] };
        control(&card, write_request(0x14, size_of::<QueueConfig>()), &queue);
    }
    println!("ready");
    loop {
        let mut request = [0; MESSAGE_BYTES];
        card.read_exact(&mut request).expect("a request");
        let (kind, id) = (&request[..4], &request[4..8]);
        let mut reply = [0; MESSAGE_BYTES];
        reply[..4].copy_from_slice(id);
        if kind == GET_QUEUE_STATE.to_ne_bytes() {
            // The number of the queue.
            reply[24..28].copy_from_slice(&request[24..28]);
        }
        card.write_all(&reply).expect("a reply");
    }
}
