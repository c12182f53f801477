use std::fs::File;
use std::time::Duration;

use taptrail_qmp::Monitor;

fn hand_over(monitor: &mut Monitor) {
    let tun = File::open("/dev/net/tun").unwrap();
    let _ = monitor.getfd("fd0", &tun, Duration::from_secs(1));
}

fn main() {}
