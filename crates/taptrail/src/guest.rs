//! `taptrail attach`, `detach`, `stop` and `nics`: calls to one guest's supervisor.

use std::path::Path;
use std::process::ExitCode;

use taptrail_guest::spec::{NicSpec, SpecChange, Vhost, check_unique};
use taptrail_guest::{Client, Dirs, api, descriptors};
use taptrail_kernel::device::DEV_VHOST_NET;
use taptrail_record::{CloseDoubt, visible};
use taptrail_report::{AddressRow, DeviceRow, NicRow, nic_table};
use tracing::{info, warn};

use crate::CommandResult;
use crate::cli::{Attach, Detach, Nics, SetFilter, Stop, Update};
use crate::output::{Failure, print, print_json, style};
use crate::run_config::pointing_into_spec;
use crate::unresponsive::{client_failure, kill, revoke_failure, whereabouts};
use crate::{held_nics, libvirt_xml};

pub(crate) fn attach(arguments: &Attach, dirs: &Dirs) -> CommandResult {
    let specs = specs(arguments)?;
    check_unique(&specs).map_err(Failure::input)?;
    let mut rows = Vec::new();
    let mut done: Vec<String> = Vec::new();
    for (number, spec) in (1..).zip(&specs) {
        let attached = Client::connect(&dirs.run, &arguments.guest)
            .and_then(|mut client| client.attach(&spec.to_string()));
        let nic = match attached {
            Ok(attached) => attached.nic,
            Err(error) => {
                if specs.len() > 1 {
                    let stay = if done.is_empty() { "none".to_owned() } else { done.join(", ") };
                    warn!(
                        "Interface {number} of {} is not attached: {spec}; attached before it: {stay}",
                        specs.len()
                    );
                }
                return Err(client_failure(error, &arguments.guest, dirs));
            }
        };
        done.push(nic.mac.clone());
        if arguments.output.is_json() {
            rows.push(row(nic)?);
            continue;
        }
        let vhost = match spec.vhost {
            _ if nic.vhost => " with vhost-net".to_owned(),
            Vhost::Auto => {
                let path = spec.vhost_path.as_deref().unwrap_or(Path::new(DEV_VHOST_NET));
                format!(" without vhost-net ({} can't be opened)", path.display())
            }
            Vhost::On | Vhost::Off => String::new(),
        };
        print(&format!(
            "{} attached: '{}'{vhost}, {} granted\n",
            nic.mac,
            nic.ifname,
            descriptors(nic.devices.len())
        ))?;
    }
    if !arguments.output.is_json() {
        return Ok(ExitCode::SUCCESS);
    }
    match &rows[..] {
        // Of a domain there is a list, however many interfaces it has.
        [row] if arguments.libvirt.domain.is_none() => print_json(row),
        rows => print_json(rows),
    }
}

pub(crate) fn detach(arguments: &Detach, dirs: &Dirs) -> CommandResult {
    let mac = arguments.mac.to_string();
    let gone = Client::connect(&dirs.run, &arguments.guest).and_then(|mut client| {
        if arguments.force { client.revoke(&mac) } else { client.detach(&mac, arguments.timeout) }
    });
    let nic = match gone {
        Ok(gone) => gone.nic,
        Err(error) if arguments.force => {
            return Err(revoke_failure(error, &arguments.guest, arguments.mac, dirs));
        }
        Err(error) => return Err(client_failure(error, &arguments.guest, dirs)),
    };
    for device in &nic.devices {
        let doubt = device.doubt.as_ref().and_then(|doubt| CloseDoubt::from_word(doubt.as_bytes()));
        if let Some(doubt) = doubt.filter(|doubt| doubt.needs_attention()) {
            let path = visible(&device.path);
            warn!(
                "{} gave up {path} ('{}'), and it may be held still: {}",
                nic.mac,
                nic.ifname,
                doubt.sentence()
            );
        }
    }
    if arguments.output.is_json() {
        return print_json(&row(nic)?);
    }
    let how = if arguments.force { "revoked" } else { "detached" };
    print(&format!("{} {how}: '{}', {} released\n", nic.mac, nic.ifname, descriptors(nic.devices.len())))
}

pub(crate) fn set_filter(arguments: &SetFilter, dirs: &Dirs) -> CommandResult {
    let changed = Client::connect(&dirs.run, &arguments.guest)
        .and_then(|mut client| client.set_filter(&arguments.mac.to_string(), &arguments.filter));
    let nic = changed.map_err(|error| client_failure(error, &arguments.guest, dirs))?.nic;
    if arguments.output.is_json() {
        return print_json(&row(nic)?);
    }
    print(&format!("{}: '{}' has its filter changed to: {}\n", nic.mac, nic.ifname, arguments.filter))
}

pub(crate) fn update(arguments: &Update, dirs: &Dirs) -> CommandResult {
    let settings = arguments.settings.join(",");
    // What can't be changed is refused before anything is asked for, with its place.
    let change: SpecChange = settings.parse().map_err(pointing_into_spec)?;
    let changed = Client::connect(&dirs.run, &arguments.guest)
        .and_then(|mut client| client.update(&arguments.mac.to_string(), &change.to_string()));
    let nic = changed.map_err(|error| client_failure(error, &arguments.guest, dirs))?.nic;
    if arguments.output.is_json() {
        return print_json(&row(nic)?);
    }
    print(&format!("{}: '{}' is changed: {change}\n", nic.mac, nic.ifname))
}

pub(crate) fn stop(arguments: &Stop, dirs: &Dirs) -> CommandResult {
    let asked = Client::connect(&dirs.run, &arguments.guest)
        .and_then(|mut client| client.stop(arguments.timeout, arguments.force));
    match asked {
        Ok(doubtful) => {
            doubtful.iter().for_each(|text| warn!("{}", visible(text)));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if arguments.force && (error.is_unresponsive() || error.is_not_running()) => {
            kill(error, &arguments.guest, dirs)
        }
        Err(error) => Err(client_failure(error, &arguments.guest, dirs)),
    }
}

pub(crate) fn nics(arguments: &Nics, dirs: &Dirs) -> CommandResult {
    let rows = match Client::connect(&dirs.run, &arguments.guest).and_then(|mut client| client.nics()) {
        Ok(nics) => nics.nics.into_iter().map(row).collect::<Result<Vec<_>, _>>()?,
        // Of a guest of taptrail, the error says how to reach it.
        Err(error) if error.is_not_running() && whereabouts(&arguments.guest, dirs).is_none() => {
            match held_nics::of_guest(&arguments.guest, dirs)? {
                Some(rows) => {
                    info!(
                        "'{}' is another manager's guest: this is what its QEMU holds now",
                        visible(&arguments.guest)
                    );
                    rows
                }
                None => return Err(client_failure(error, &arguments.guest, dirs)),
            }
        }
        Err(error) => return Err(client_failure(error, &arguments.guest, dirs)),
    };
    if arguments.output.is_json() { print_json(&rows) } else { print(&nic_table(&rows, &style(false))) }
}

/// The interfaces to attach, from a SPEC or from XML.
fn specs(arguments: &Attach) -> Result<Vec<NicSpec>, Failure> {
    if let Some(nic) = &arguments.nic {
        return Ok(vec![nic.parse().map_err(pointing_into_spec)?]);
    }
    match &arguments.xml {
        Some(file) => Ok(vec![libvirt_xml::interface(file, &arguments.libvirt)?]),
        None => libvirt_xml::domain(&arguments.libvirt),
    }
}

fn row(nic: api::Nic) -> anyhow::Result<NicRow> {
    let devices = nic.devices.into_iter().map(device).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(NicRow {
        mac: Some(nic.mac.parse()?),
        backend: nic.backend,
        model: nic.model,
        queues: u32::try_from(nic.queues)?,
        vhost: nic.vhost,
        ifname: Some(nic.ifname),
        state: nic.state,
        since: Some(nic.since.parse()?),
        devices,
        addresses: nic.addresses.map(|all| all.into_iter().map(address).collect()).transpose()?,
    })
}

fn address(address: api::Address) -> anyhow::Result<AddressRow> {
    Ok(AddressRow {
        ip: address.ip.parse()?,
        server: address.server.map(|server| server.parse()).transpose()?,
        until: address.until.map(|until| until.parse()).transpose()?,
    })
}

fn device(device: api::Device) -> anyhow::Result<DeviceRow> {
    let rdev = device.rdev.map(|rdev| rdev.parse()).transpose()?;
    Ok(DeviceRow {
        device: taptrail_record::Device::new(device.path, rdev, device.dev.map(Into::into)),
        queue: u32::try_from(device.queue)?,
        qemu_fd: device.qemu_fd.map(i32::try_from).transpose()?,
        doubt: device.doubt,
    })
}
