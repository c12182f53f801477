//! Reads the guest's name and uuid from the command line of a QEMU or another hypervisor. Any
//! process may write anything there.

use std::ffi::OsString;
use std::path::Path;

use taptrail_record::ClaimedGuest;

use super::program::Vmm;

/// Where libvirt's driver of cloud-hypervisor keeps the sockets of its guests.
const LIBVIRT_CH: &str = "/run/libvirt/ch/";

/// What a command line says of the guest that the program with this path runs.
pub(crate) fn identity_by_program(exe: Option<&Path>, arguments: &[OsString]) -> ClaimedGuest {
    let value = |option| option_value(arguments, option);
    let (name, uuid) = match Vmm::of(exe) {
        None => return ClaimedGuest::of_qemu(arguments),
        Some(Vmm::CloudHypervisor) => {
            let uuid = value("platform").and_then(|platform| key_of(platform, "uuid"));
            let api = value("api-socket").map(|api| key_of(api, "path").unwrap_or(api));
            let api = api.filter(|api| !api.starts_with("fd="));
            let events = value("event-monitor").and_then(|monitor| key_of(monitor, "path"));
            let name = events.and_then(|path| libvirt_name(path, "-event-monitor-fifo"));
            let name = name.or_else(|| libvirt_name(api?, "-socket")).or(api);
            (name, uuid.and_then(|uuid| uuid.parse().ok()))
        }
        Some(Vmm::Firecracker) => {
            // Its own default says nothing.
            let id = value("id").filter(|id| *id != "anonymous-instance");
            (id.or_else(|| value("api-sock")), None)
        }
        Some(Vmm::Crosvm) => {
            let socket = || value("socket").or_else(|| value("s"));
            (value("name").or_else(socket), None)
        }
    };
    ClaimedGuest::new(name, uuid)
}

/// The guest's name in the path of a file that libvirt's driver of cloud-hypervisor made for it.
fn libvirt_name<'a>(path: &'a str, end: &str) -> Option<&'a str> {
    path.strip_prefix(LIBVIRT_CH)?.strip_suffix(end)
}

/// The value of a key among `key=value` pairs with commas between.
fn key_of<'a>(value: &'a str, key: &str) -> Option<&'a str> {
    value.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// The value of an option, given as `--option VALUE` or `--option=VALUE`, or with one letter as
/// `-o VALUE`. If it is given twice, the last one counts.
fn option_value<'a>(arguments: &'a [OsString], option: &str) -> Option<&'a str> {
    let dashes = if option.len() == 1 { "-" } else { "--" };
    let texts = || arguments.iter().map(|argument| argument.to_str().unwrap_or_default());
    let named = |text: &'a str| text.strip_prefix(dashes)?.strip_prefix(option);
    let next = texts().skip(1).map(Some).chain([None]);
    let value = |(text, next): (&'a str, Option<&'a str>)| match named(text)? {
        "" => next,
        rest => rest.strip_prefix('='),
    };
    texts().zip(next).skip(1).filter_map(value).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_other_hypervisors_are_named_by_their_options_and_sockets() {
        const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
        let platform = format!("num_pci_segments=1,uuid={UUID}");
        let long = "x".repeat(ClaimedGuest::MAX_NAME_BYTES + 1);
        for (exe, arguments, name, uuid) in [
            ("cloud-hypervisor", &["--api-socket", "/run/ch/a.sock"][..], Some("/run/ch/a.sock"), false),
            (
                "cloud-hypervisor",
                &["--api-socket=path=/run/b.sock", "--kernel", "k"],
                Some("/run/b.sock"),
                false,
            ),
            ("cloud-hypervisor", &["--api-socket", "fd=3", "--platform", &platform], None, true),
            (
                "cloud-hypervisor",
                &["--api-socket", "fd=29", "--event-monitor", "path=/run/libvirt/ch/web1-event-monitor-fifo"],
                Some("web1"),
                false,
            ),
            ("cloud-hypervisor", &["--api-socket", "/run/libvirt/ch/web-2-socket"], Some("web-2"), false),
            // QEMU's options are none of its.
            ("cloud-hypervisor", &["-name", "web1", "-uuid", UUID], None, false),
            ("firecracker", &["--id", "vm1", "--api-sock", "/run/a.socket"], Some("vm1"), false),
            ("firecracker", &["--id=vm1", "--id=vm2"], Some("vm2"), false),
            ("firecracker", &["--id", "anonymous-instance", "--api-sock", "/a"], Some("/a"), false),
            ("firecracker", &["--config-file", "vm.json", "--no-api"], None, false),
            ("firecracker", &["--id", &long], None, false),
            ("firecracker", &["--id"], None, false),
            ("crosvm", &["run", "--name", "android", "-s", "/run/c.sock"], Some("android"), false),
            ("crosvm", &["run", "-s", "/run/c.sock", "vmlinux"], Some("/run/c.sock"), false),
            ("crosvm", &["run", "--socket=/run/d.sock", "vmlinux"], Some("/run/d.sock"), false),
            ("crosvm", &["run", "--sockets", "no"], None, false),
            ("qemu-system-x86_64", &["-name", "web1", "-uuid", UUID], Some("web1"), true),
            ("sleep", &["--id", "vm1"], None, false),
        ] {
            let all: Vec<_> = [&[exe][..], arguments].concat().iter().map(OsString::from).collect();
            let ClaimedGuest { name: found, uuid: id } =
                identity_by_program(Some(&Path::new("/usr/bin").join(exe)), &all);
            assert_eq!((found.as_deref(), id.is_some()), (name, uuid), "{exe} {arguments:?}");
        }
    }
}
