//! A process that keeps a device where its descriptor's number does not show it. Most of them this test is itself.

use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use taptrail_record::{Device, Rdev};
use taptrail_trail::Holding;

use crate::lab::{Lab, ip, lab, mac};
use crate::manager::{Opened, detach, id, lasting_tap, macvtap, op_start, op_stop, start, tap};

/// Where a file is kept. Dropped, it is given up.
enum Hidden {
    Elsewhere(#[allow(dead_code, reason = "it is held")] OwnedFd),
    Table(Option<Sender<()>>, Option<JoinHandle<()>>),
    Flight(#[allow(dead_code, reason = "they are held")] (OwnedFd, OwnedFd)),
    Child(Child),
}

impl Drop for Hidden {
    fn drop(&mut self) {
        match self {
            Self::Elsewhere(_) | Self::Flight(_) => {}
            Self::Table(stop, thread) => {
                drop(stop.take());
                thread.take().unwrap().join().unwrap();
            }
            Self::Child(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
}

/// Ways to keep a file while its descriptor is closed.
const WAYS: [fn(OwnedFd) -> Hidden; 4] = [
    // Under another number, far off.
    |file| Hidden::Elsewhere(fcntl_dupfd_cloexec(&file, 500).unwrap()),
    // In a table of a thread's own, which begins as a copy.
    |file| {
        let ((ready, is_ready), (stop, is_over)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            ready.send(()).unwrap();
            let _ = is_over.recv();
        });
        is_ready.recv().unwrap();
        drop(file);
        Hidden::Table(Some(stop), Some(thread))
    },
    // In flight to ourselves.
    |file| {
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sends(&pair.0, &file);
        Hidden::Flight(pair)
    },
    // In a child.
    |file| {
        let copy = file.try_clone().unwrap();
        fcntl_setfd(&copy, FdFlags::empty()).unwrap();
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        Hidden::Child(child)
    },
];

#[allow(clippy::disallowed_methods, reason = "the test sends what a hostile process would")]
fn sends(socket: &OwnedFd, file: &OwnedFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[std::io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
}

/// A device, by the name of its link.
type Named = (&'static str, fn() -> Opened);

const TAPS: [Named; 2] = [
    ("vnet0", || tap("vnet0", mac(1), 1)),
    ("tap5", || {
        ip("tuntap add dev tap5 mode tap");
        ip("link set dev tap5 address fe:54:00:0a:0c:01");
        lasting_tap("tap5", mac(1))
    }),
];

const DEVICES: [Named; 3] = [TAPS[0], TAPS[1], ("macvtap0", || macvtap(mac(1), 1))];

/// The one descriptor of a device that was opened.
fn only(opened: Opened) -> OwnedFd {
    opened.devices[0].as_fd().try_clone_to_owned().unwrap()
}

impl Lab {
    /// The manager tells that this process is a QEMU with this.
    fn boots_by(&mut self, opened: &Opened, pid: u32) {
        self.opens(&id(), opened);
        self.says(&id(), start(opened.mac));
        self.says(&id(), op_start(pid));
    }

    fn holding(&self) -> Holding {
        let mut holdings = self.report().holdings;
        assert_eq!(holdings.len(), 1, "{holdings:#?}");
        holdings.remove(0)
    }

    fn end(&self) -> (&'static str, &'static str, Option<&'static str>) {
        let of = self.holding();
        (of.state.as_str(), of.certainty.as_str(), of.end_doubt.map(|doubt| doubt.as_str()))
    }
}

#[test]
fn what_is_shown_under_another_number_or_by_another_thread_is_held() {
    for way in [0, 1] {
        // The interface of a macvtap is looked for where the process is, not this thread.
        for (name, device) in TAPS {
            lab(|mut lab| {
                let opened = device();
                lab.boots_by(&opened, std::process::id());
                let file = only(opened);
                lab.until("its device", |lab| lab.on_record().len() == 1);
                let hidden = WAYS[way](file);
                lab.says(&id(), detach(mac(1)));
                lab.until("the finding", |lab| lab.findings().contains(&"held-after-release"));
                lab.patiently();
                assert_eq!((lab.findings(), lab.released()), (vec!["held-after-release"], vec![]));
                // Nor does the next watcher believe in an end. (A table of its own has a copy of the lock, too.)
                if way == 0 {
                    lab.watcher = None;
                    lab.watch();
                    lab.patiently();
                }
                assert_eq!(lab.released(), [""; 0]);
                assert_eq!(lab.end(), ("held", "definitive", None), "{name} {way}");
                drop(hidden);
                lab.until("its end", |lab| lab.on_record().is_empty());
                assert_eq!(lab.end(), ("released", "definitive", None), "{name} {way}");
            });
        }
    }
}

#[test]
fn what_is_shown_by_nobody_or_by_another_process_is_not_given_up_for_certain() {
    for (way, doubt) in [(2, "attached"), (3, "held-elsewhere")] {
        for (name, device) in TAPS {
            lab(|mut lab| {
                let opened = device();
                lab.boots_by(&opened, std::process::id());
                let file = only(opened);
                lab.until("its device", |lab| lab.on_record().len() == 1);
                let hidden = WAYS[way](file);
                lab.says(&id(), detach(mac(1)));
                lab.until("its end", |lab| lab.on_record().is_empty());
                assert_eq!(lab.end(), ("released", "inferred", Some(doubt)), "{name} {way}");
                let possibly: Vec<_> =
                    lab.holding().possibly_held.iter().map(|stretch| stretch.why.as_str()).collect();
                assert_eq!(possibly, ["close-doubted"], "{name} {way}");
                drop(hidden);
            });
        }
    }
}

#[test]
fn what_is_given_up_while_the_kernel_is_asked_is_given_up_for_certain() {
    for (name, device) in TAPS {
        lab(|mut lab| {
            let opened = device();
            lab.boots_by(&opened, std::process::id());
            let file = only(opened);
            lab.until("its device", |lab| lab.on_record().len() == 1);
            let hidden = WAYS[2](file);
            lab.says(&id(), detach(mac(1)));
            lab.round();
            assert_eq!(lab.on_record().len(), 1, "nothing shows its end");
            drop(hidden);
            lab.until("its end", |lab| lab.on_record().is_empty());
            assert_eq!(lab.end(), ("released", "definitive", None), "{name}");
        });
    }
}

#[test]
fn the_exit_of_qemu_is_no_proof_while_a_child_has_its_device() {
    for (name, device) in DEVICES {
        for (watched, told) in [(true, true), (true, false), (false, true)] {
            lab(|mut lab| {
                let opened = device();
                let file = only(opened);
                fcntl_setfd(&file, FdFlags::empty()).unwrap();
                // A program that is nobody's child any more, and has what it inherited.
                let mut qemu = Command::new("/bin/sh");
                qemu.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
                let mut qemu = qemu.spawn().unwrap();
                drop(file);
                let mut child = String::new();
                let mut said = std::io::BufReader::new(qemu.stdout.take().unwrap());
                std::io::BufRead::read_line(&mut said, &mut child).unwrap();
                let of = Opened { devices: Vec::new(), ..device_again(name) };
                lab.boots_by(&of, qemu.id());
                lab.until("its device", |lab| lab.on_record().len() == 1);
                if !watched {
                    lab.watcher = None;
                }
                qemu.kill().unwrap();
                qemu.wait().unwrap();
                if told {
                    lab.says(&id(), op_stop("destroyed"));
                }
                if !watched {
                    lab.watch();
                }
                lab.until("the account's end", |lab| lab.guests()[0].ended.is_some());
                assert_eq!(lab.end(), ("released", "inferred", Some("held-elsewhere")), "{name}");
                let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
                rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
            });
        }
    }
}

/// What the manager tells of the device of this name.
fn device_again(name: &str) -> Opened {
    let recorded = match name {
        "macvtap0" => Device::new("macvtap0", None, None),
        _ => Device::new("/dev/net/tun", Some(Rdev::TUN), None),
    };
    Opened { devices: Vec::new(), recorded, mac: mac(1) }
}

/// A program that hides a descriptor when it is told to: under another number, or registered with io_uring.
struct Hider {
    child: Child,
    said: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Hider {
    fn start(way: &str, file: OwnedFd) -> Self {
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let script = r#"
            use POSIX;
            my ($way, $fd) = @ARGV;
            $| = 1;
            <STDIN>;
            if ($way eq "dup") {
                POSIX::dup2($fd, 500) or die;
            } else {
                my $parameters = "\0" x 120;
                my $ring = syscall(425, 4, $parameters);
                $ring >= 0 && syscall(427, $ring, 2, pack("i", $fd), 1) == 0 or die "$!";
            }
            POSIX::close($fd);
            print "hidden\n";
            <STDIN>;"#;
        let mut hider = Command::new("/usr/bin/perl");
        hider.args(["-e", script, way, &file.as_raw_fd().to_string()]);
        let mut child = hider.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        Self { child, said }
    }

    fn hides(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.said.next().unwrap().unwrap(), "hidden");
    }
}

impl Drop for Hider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn another_program_hides_as_little() {
    for (way, expected) in [
        ("dup", [("held", "definitive", None); 3]),
        ("uring", ["attached", "attached", "hidden"].map(|doubt| ("released", "inferred", Some(doubt)))),
    ] {
        for ((name, device), expected) in DEVICES.into_iter().zip(expected) {
            lab(|mut lab| {
                let opened = device();
                let file = only(opened);
                let mut hider = Hider::start(way, file);
                lab.boots_by(&device_again(name), hider.child.id());
                lab.until("its device", |lab| lab.on_record().len() == 1);
                hider.hides();
                lab.says(&id(), detach(mac(1)));
                lab.patiently();
                lab.patiently();
                // A macvtap's driver may be a module, which counts.
                let end = lab.end();
                let is_counted = end.2 == Some("uncounted") && name == "macvtap0";
                assert!(end == expected || is_counted, "{name} {way} {end:?}");
                if name == "macvtap0" {
                    ip("link delete macvtap0");
                }
                drop(hider);
                lab.until("its end", |lab| lab.on_record().is_empty());
                if way == "dup" {
                    assert_eq!(lab.end(), ("released", "definitive", None), "{name}");
                }
            });
        }
    }
}
