//! Generates the audit log of a busy KVM host, identical for the same seed.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// What the generated log contains.
pub(crate) struct ReadOptions {
    /// One line in `mix` is libvirt's. 1: all lines are.
    pub(crate) mix: u64,
    /// Maximum number of running guests.
    pub(crate) guests: usize,
    pub(crate) seed: u64,
    /// Start all guests, then stop all in the same order, over and over.
    pub(crate) in_order: bool,
    /// The longest time between two of libvirt's actions, in milliseconds; half of it is usual.
    pub(crate) pause: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { mix: 75, guests: 200, seed: 1, in_order: false, pause: 0 }
    }
}

/// splitmix64: small, and good enough to make lines differ.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

struct Guest {
    number: u64,
    uuid: (u64, u64),
    pid: u64,
    plugged: bool,
}

pub(crate) struct Host {
    options: ReadOptions,
    dice: Dice,
    millis: u64,
    serial: u32,
    alive: VecDeque<Guest>,
    started: u64,
    stopping: bool,
    /// Records that libvirt will write next: type and text.
    waiting: VecDeque<(&'static str, String)>,
    /// Records of the last system call that come next.
    of_system_call: VecDeque<String>,
}

/// The devices that libvirt lets every guest open by default (`cgroup_device_acl` in qemu.conf).
const ALLOWED: [(&str, &str); 7] = [
    ("/dev/null", "01:03"),
    ("/dev/full", "01:07"),
    ("/dev/zero", "01:05"),
    ("/dev/random", "01:08"),
    ("/dev/urandom", "01:09"),
    ("/dev/ptmx", "05:02"),
    ("/dev/kvm", "0A:E8"),
];

const ENRICHED: &str = "\x1dUID=\"root\" AUID=\"unset\"\n";

impl Host {
    pub(crate) fn new(options: ReadOptions) -> Self {
        Self {
            dice: Dice(options.seed),
            options,
            millis: 1_795_000_000_000,
            serial: 1000,
            alive: VecDeque::new(),
            started: 0,
            stopping: false,
            waiting: VecDeque::new(),
            of_system_call: VecDeque::new(),
        }
    }

    /// Appends the next line.
    pub(crate) fn line(&mut self, line: &mut String) {
        if self.options.pause > 0 && self.waiting.is_empty() {
            self.millis += self.dice.below(self.options.pause);
        }
        // Some lines share one clock tick, as real ones do.
        let millis = self.millis + [0, 0, 4, 40][(self.dice.next() & 3) as usize];
        self.line_at(millis, line);
    }

    /// Appends the next line, stamped `millis` (milliseconds since 1970), or as the lines before it
    /// if it is of the same event.
    pub(crate) fn line_at(&mut self, millis: u64, line: &mut String) {
        if let Some(record) = self.of_system_call.pop_front() {
            return line.push_str(&record);
        }
        self.millis = millis;
        self.serial = self.serial.wrapping_add(1);
        let stamp = format!("msg=audit({}.{:03}:{}):", self.millis / 1000, self.millis % 1000, self.serial);
        // Other events have 2.5 lines at the mean.
        let mix = self.options.mix;
        if mix > 1 && self.dice.below(2 * mix + 3) >= 5 {
            return self.other(line, &stamp);
        }
        if self.waiting.is_empty() {
            self.act();
        }
        if let Some((kind, text)) = self.waiting.pop_front() {
            let _ = write!(
                line,
                "type={kind} {stamp} pid=1265 uid=0 auid=4294967295 ses=4294967295 \
                 subj=system_u:system_r:virtd_t:s0-s0:c0.c1023 msg='virt=kvm {text} \
                 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'{ENRICHED}"
            );
        }
    }

    /// Queues the records of libvirt's next action.
    fn act(&mut self) {
        let full = self.alive.len() >= self.options.guests;
        if self.options.in_order {
            self.stopping = if self.stopping { !self.alive.is_empty() } else { full };
        }
        let dice = self.dice.below(10);
        if self.options.in_order && self.stopping {
            if let Some(guest) = self.alive.pop_front() {
                self.stop(&guest);
            }
        } else if !full && (self.options.in_order || dice < 6 || self.alive.is_empty()) {
            self.start();
        } else if dice < 8 {
            let at = self.pick();
            let (guest, mac) = (self.alive[at].name(), self.alive[at].mac(9));
            self.alive[at].plugged = !self.alive[at].plugged;
            if self.alive[at].plugged {
                self.open(&guest, &mac);
                self.net(format!("reason=attach {guest} old-net=\"?\" new-net=\"{mac}\""));
            } else {
                self.net(format!("reason=detach {guest} old-net=\"{mac}\" new-net=\"?\""));
            }
        } else {
            let at = self.pick();
            if let Some(guest) = self.alive.swap_remove_back(at) {
                self.stop(&guest);
            }
        }
    }

    fn pick(&mut self) -> usize {
        usize::try_from(self.dice.below(self.alive.len() as u64)).unwrap_or_default()
    }

    fn start(&mut self) {
        self.started += 1;
        let number = self.started;
        let uuid = (self.dice.next(), self.dice.next());
        // No process has such a pid (PID_MAX_LIMIT, linux/threads.h): a watcher finds no process
        // for these guests.
        let pid = 4_194_304 + number % 4_000_000;
        let guest = Guest { number, uuid, pid, plugged: false };
        let name = guest.name();
        self.waiting
            .push_back(("VIRT_MACHINE_ID", format!("{name} vm-ctx=+107:+107 img-ctx=+107:+107 model=dac")));
        for nic in 0..2 {
            self.open(&name, &guest.mac(nic));
        }
        // The device cgroup: deny all, then allow the devices that every guest may open.
        let cgroup = format!(
            "resrc=cgroup reason={{}} {name} cgroup=\"/sys/fs/cgroup/devices/machine.slice/machine-qemu\\x2d{number}.scope/\""
        );
        self.waiting.push_back(("VIRT_RESOURCE", format!("{} class=all", cgroup.replace("{}", "deny"))));
        for (path, rdev) in ALLOWED {
            let allow =
                format!("{} class=path path=\"{path}\" rdev={rdev} acl=rw", cgroup.replace("{}", "allow"));
            self.waiting.push_back(("VIRT_RESOURCE", allow));
        }
        let disk = format!(
            "resrc=disk reason=start {name} old-disk=\"?\" new-disk=\"/var/lib/libvirt/images/{number}.qcow2\""
        );
        self.waiting.push_back(("VIRT_RESOURCE", disk));
        for nic in 0..2 {
            self.net(format!("reason=start {name} old-net=\"?\" new-net=\"{}\"", guest.mac(nic)));
        }
        let memory = format!("resrc=mem reason=start {name} old-mem=0 new-mem=4194304");
        self.waiting.push_back(("VIRT_RESOURCE", memory));
        let cpus = format!("resrc=vcpu reason=start {name} old-vcpu=0 new-vcpu=4");
        self.waiting.push_back(("VIRT_RESOURCE", cpus));
        let control = format!("op=start reason=booted {name} vm-pid={}", guest.pid);
        self.waiting.push_back(("VIRT_CONTROL", control));
        self.alive.push_back(guest);
    }

    fn stop(&mut self, guest: &Guest) {
        let text = format!("op=stop reason=destroyed {} vm-pid=0", guest.name());
        self.waiting.push_back(("VIRT_CONTROL", text));
    }

    fn open(&mut self, guest: &str, mac: &str) {
        self.net(format!("reason=open {guest} net={mac} path=\"/dev/net/tun\" rdev=0A:C8"));
        self.net(format!("reason=open {guest} net={mac} path=\"/dev/vhost-net\" rdev=0A:EE"));
    }

    fn net(&mut self, text: String) {
        self.waiting.push_back(("VIRT_RESOURCE", format!("resrc=net {text}")));
    }

    /// Appends an event that is not about a guest, or the first record of a system call.
    fn other(&mut self, line: &mut String, stamp: &str) {
        let dice = self.dice.next();
        let pid = 300 + dice % 60_000;
        let _ = match (dice >> 32) % 7 {
            0..=2 => {
                self.system_call(stamp);
                writeln!(
                    line,
                    "type=SYSCALL {stamp} arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1={:x} a2=80000 \
                     a3=0 items=1 ppid=1 pid={pid} auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 \
                     fsgid=0 tty=(none) ses=4294967295 comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" \
                     subj=system_u:system_r:init_t:s0 key=\"etc\"\x1dARCH=x86_64 SYSCALL=openat AUID=\"unset\" \
                     UID=\"root\" GID=\"root\" EUID=\"root\" SUID=\"root\" FSUID=\"root\" EGID=\"root\" SGID=\"root\" \
                     FSGID=\"root\"",
                    self.dice.next() >> 16
                )
            }
            3..=4 => writeln!(
                line,
                "type=USER_ACCT {stamp} pid={pid} uid=0 auid=1000 ses=7 subj=unconfined msg='op=PAM:accounting \
                 grantors=pam_permit acct=\"operator{}\" exe=\"/usr/bin/sudo\" hostname=? addr=? terminal=/dev/pts/1 \
                 res=success'\x1dUID=\"root\" AUID=\"operator\"",
                dice % 40
            ),
            5 => write!(
                line,
                "type=SERVICE_START {stamp} pid=1 uid=0 auid=4294967295 ses=4294967295 subj=system_u:system_r:init_t:s0 \
                 msg='unit=sysstat-collect comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" hostname=? addr=? terminal=? \
                 res=success'{ENRICHED}"
            ),
            _ => write!(
                line,
                "type=CRED_ACQ {stamp} pid={pid} uid=0 auid=1000 ses=7 msg='op=PAM:setcred grantors=pam_env,pam_unix \
                 acct=\"root\" exe=\"/usr/sbin/cron\" hostname=? addr=? terminal=cron res=success'{ENRICHED}"
            ),
        };
    }

    /// Queues the records of a system call after its first, with the same stamp.
    fn system_call(&mut self, stamp: &str) {
        let dice = self.dice.next();
        self.of_system_call.push_back(format!("type=CWD {stamp} cwd=\"/\"\n"));
        for item in 0..1 + (dice >> 60) % 2 {
            self.of_system_call.push_back(format!(
                "type=PATH {stamp} item={item} name=\"/etc/ld.so.cache\" inode={} dev=fd:00 mode=0100644 ouid=0 ogid=0 \
                 rdev=00:00 obj=system_u:object_r:ld_so_cache_t:s0 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 \
                 cap_fver=0 cap_frootid=0\x1dOUID=\"root\" OGID=\"root\"\n",
                dice % 9_000_000
            ));
        }
        self.of_system_call.push_back(format!(
            "type=PROCTITLE {stamp} proctitle=2F7573722F7362696E2F73736864002D44{:X}\n",
            dice & 0xFFFF_FFFF
        ));
    }
}

impl Guest {
    fn name(&self) -> String {
        let (a, b) = self.uuid;
        format!(
            "vm=\"instance-{:08x}\" uuid={:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            self.number,
            a >> 32,
            a >> 16 & 0xFFFF,
            a & 0xFFF,
            b >> 52,
            b & 0xFFFF_FFFF_FFFF
        )
    }

    fn mac(&self, nic: u64) -> String {
        let [.., a, b, c] = self.number.to_be_bytes();
        format!("fa:16:{nic:02x}:{a:02x}:{b:02x}:{c:02x}")
    }
}
