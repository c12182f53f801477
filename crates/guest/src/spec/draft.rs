//! A SPEC in the making: the given keys, their places, and the checks of their combination.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::ops::Range;

use taptrail_record::{IfName, MacAddr};

use super::error::{Fault, Problem, quoted};
use super::{
    Backend, HostSide, Key, NicSpec, Property, SPEC_LIMIT, SocketPath, VdpaNode, Vhost, closest, host_side,
    value,
};
use crate::filter::{FilterChoice, Store};
use crate::qemu::model::Model;

/// The backends with a link of the host, which vhost-net and a filter need.
const LINKS: [Key; 4] = [Key::Bridge, Key::Tap, Key::NewTap, Key::Macvtap];

/// One key's value, and the places of both in the text.
#[derive(Debug, Clone)]
pub(crate) struct Given<'t> {
    pub(crate) key_span: Range<usize>,
    pub(crate) value_span: Range<usize>,
    pub(crate) value: Cow<'t, str>,
}

impl Given<'_> {
    /// From the key to the value's end.
    fn span(&self) -> Range<usize> {
        self.key_span.start..self.value_span.end
    }
}

/// The keys given so far, each at most once but for those of filters.
#[derive(Debug)]
pub(crate) struct PartialSpec<'t> {
    given: [Option<Given<'t>>; Key::COUNT],
    /// Keys that were given again.
    again: Vec<(Key, Given<'t>)>,
}

impl Default for PartialSpec<'_> {
    fn default() -> Self {
        Self { given: [const { None }; Key::COUNT], again: Vec::new() }
    }
}

impl<'t> PartialSpec<'t> {
    /// Takes one key's value.
    ///
    /// # Errors
    /// The key was given before, or its value is empty or has a control character.
    pub(crate) fn give(&mut self, key: Key, given: Given<'t>) -> Result<(), Fault> {
        if let Some(earlier) = self.get(key).filter(|_| !key.can_repeat()) {
            let fault = Fault::new(given.key_span, Problem::RepeatedKey(key));
            return Err(fault.beside(earlier.key_span.clone()));
        }
        if given.value.is_empty() {
            return Err(Fault::new(given.span(), Problem::NoValue(key)));
        }
        if given.value.chars().any(char::is_control) {
            return Err(Fault::new(given.value_span, Problem::ControlCharacter));
        }
        match &mut self.given[key.index()] {
            Some(_) => self.again.push((key, given)),
            first => *first = Some(given),
        }
        Ok(())
    }

    /// All that was given, in canonical order.
    pub(super) fn given(&self) -> impl Iterator<Item = (Key, &Given<'t>)> {
        Key::all().flat_map(|key| self.all(key).map(move |given| (key, given)))
    }

    /// All that was given for a key.
    fn all(&self, key: Key) -> impl Iterator<Item = &Given<'t>> {
        let again = self.again.iter().filter(move |(of, _)| *of == key).map(|(_, given)| given);
        self.get(key).into_iter().chain(again)
    }

    fn get(&self, key: Key) -> Option<&Given<'t>> {
        self.given[key.index()].as_ref()
    }

    /// Reads one key's value, if it was given.
    fn read<T>(&self, key: Key, read: impl Fn(&str) -> Result<T, Problem>) -> Result<Option<T>, Fault> {
        let Some(given) = self.get(key) else { return Ok(None) };
        read(&given.value).map(Some).map_err(|problem| self.bad_value(given, problem))
    }

    fn bad_value(&self, given: &Given<'t>, problem: Problem) -> Fault {
        let meant = match &problem {
            Problem::Choice { choices, .. } => closest(&given.value, choices.iter().copied()),
            _ => None,
        };
        let fault = Fault::new(given.value_span.clone(), problem);
        match meant {
            Some(word) => fault.help(format!("did you mean '{word}'?")),
            None => fault,
        }
    }

    /// The interface, when all that was given holds together.
    ///
    /// # Errors
    /// An invalid value, or two that exclude each other. `whole` is where to point when something
    /// is missing.
    pub(crate) fn finish(&self, whole: Range<usize>) -> Result<NicSpec, Fault> {
        let (backend_key, backend) = self.backend(whole.clone())?;
        for (key, only_with) in [
            (Key::Mode, &[Key::Macvtap][..]),
            (Key::Ifname, &[Key::Bridge, Key::NewTap, Key::Macvtap]),
            (Key::Isolated, &[Key::Bridge]),
            (Key::Vlan, &[Key::Bridge]),
            (Key::TunPath, &[Key::Bridge, Key::Tap, Key::NewTap]),
            (Key::Vhost, &LINKS),
            (Key::VhostPath, &LINKS),
            (Key::Filter, &LINKS),
            (Key::SendBuffer, &LINKS),
            (Key::Script, &LINKS),
            (Key::Downscript, &LINKS),
            (Key::Trunk, &[Key::Bridge]),
            (Key::Ovs, &[Key::Bridge]),
            // The kernel's macvtap has no such setting.
            (Key::RxFrames, &[Key::Bridge, Key::Tap, Key::NewTap]),
            // An existing link keeps its owner's queues and addresses.
            (Key::Inbound, &[Key::Bridge, Key::NewTap, Key::Macvtap]),
            (Key::Outbound, &[Key::Bridge, Key::NewTap, Key::Macvtap]),
            (Key::HostIp, &[Key::NewTap]),
            (Key::HostRoute, &[Key::NewTap]),
        ] {
            if !only_with.contains(&backend_key) {
                let refused =
                    self.refuse(key, backend_key, Problem::WrongBackend { key, backend: backend_key });
                refused.map_err(|fault| match (key, backend_key) {
                    (Key::Inbound | Key::Outbound, Key::Tap) => {
                        fault.help("the link keeps its owner's queues: limit it by tc(8)")
                    }
                    _ => fault,
                })?;
            }
        }

        let mut spec = NicSpec::new(backend);
        spec.mac = self.read(Key::Mac, value::mac)?;
        if let Some(model) = self.read(Key::Model, |text| Ok(Model::parse(text)?))? {
            spec.model = model;
        }
        if matches!(backend_key, Key::Vdpa | Key::VhostUser) && !spec.model.is_virtio() {
            let problem = Problem::NoVirtioModel { model: spec.model, backend: backend_key };
            return Err(self.two(Key::Model, backend_key, problem));
        }
        spec.queues = self.read(Key::Queues, value::queues)?.unwrap_or(NonZeroU16::MIN);
        if spec.queues > NonZeroU16::MIN && !spec.model.multi_queue() {
            self.refuse(Key::Queues, Key::Model, Problem::OneQueueModel(spec.model.clone()))?;
        }
        spec.vhost = self.vhost(&spec)?;
        spec.mtu = self.read(Key::Mtu, value::mtu)?;
        spec.ifname = self.ifname(backend_key, &spec.backend)?;
        spec.filter = self.filters(spec.mac)?;
        spec.isolated = self.read(Key::Isolated, value::isolated)?.unwrap_or(false);
        spec.vlan = self.read(Key::Vlan, value::vlan)?;
        spec.id = self.read(Key::Id, |text| Ok(text.parse()?))?;
        spec.tun_path = self.read(Key::TunPath, value::path)?;
        spec.vhost_path = self.read(Key::VhostPath, value::path)?;
        spec.host = self.host_side()?;
        for property in Property::all() {
            let key = Key::Device(property);
            let Some(value) = self.read(key, |text| property.check(text))? else { continue };
            if !property.is_of(&spec.model) {
                self.refuse(key, Key::Model, Problem::NoProperty { key, model: spec.model.clone() })?;
            }
            let other = spec.properties.keys().copied().find(|other| property.is_place() && other.is_place());
            if let Some(other) = other.map(Key::Device) {
                return Err(self.two(key, other, Problem::TwoPlaces(other, key)));
            }
            spec.properties.insert(property, value);
        }
        // It is written where it has to be read again.
        if spec.to_string().len() > SPEC_LIMIT {
            return Err(Fault::new(whole, Problem::TooLong { limit: SPEC_LIMIT }));
        }
        Ok(spec)
    }

    fn host_side(&self) -> Result<HostSide, Fault> {
        for (key, needed) in
            [(Key::OvsProfile, Key::Ovs), (Key::VlanMode, Key::Trunk), (Key::VlanMode, Key::Vlan)]
        {
            if self.get(needed).is_none() {
                self.refuse(key, needed, Problem::Needs { key, needed })?;
            }
        }
        if self.get(Key::Ovs).is_some() {
            for key in [Key::Filter, Key::Isolated, Key::Inbound, Key::Outbound] {
                self.refuse(key, Key::Ovs, Problem::NotWithOvs(key))?;
            }
        }
        let mut ovs = self.read(Key::Ovs, host_side::ovs)?;
        let profile = self.read(Key::OvsProfile, host_side::profile)?;
        if let Some(ovs) = &mut ovs {
            ovs.profile = profile;
        }
        let limit = |key| self.read(key, |text| host_side::limit(key, text));
        Ok(HostSide {
            link_down: self.read(Key::LinkState, value::link_down)?.unwrap_or(false),
            send_buffer: self.read(Key::SendBuffer, value::send_buffer)?,
            trunk: self.read(Key::Trunk, host_side::trunk)?.unwrap_or_default(),
            native_tagged: self.read(Key::VlanMode, value::native_tagged)?.unwrap_or(false),
            ovs,
            rx_frames: self.read(Key::RxFrames, value::rx_frames)?,
            inbound: limit(Key::Inbound)?,
            outbound: limit(Key::Outbound)?,
            addresses: self.read(Key::HostIp, host_side::addresses)?.unwrap_or_default(),
            routes: self.read(Key::HostRoute, host_side::routes)?.unwrap_or_default(),
            script: self.read(Key::Script, value::path)?,
            downscript: self.read(Key::Downscript, value::path)?,
        })
    }

    /// The one backend that was given.
    fn backend(&self, whole: Range<usize>) -> Result<(Key, Backend), Fault> {
        const BACKENDS: [Key; 6] =
            [Key::Bridge, Key::Tap, Key::NewTap, Key::Macvtap, Key::Vdpa, Key::VhostUser];
        let mut found: Vec<(Key, &Given<'t>)> =
            BACKENDS.into_iter().filter_map(|key| Some((key, self.get(key)?))).collect();
        found.sort_by_key(|(_, given)| given.key_span.start);
        let (key, given) = match found[..] {
            [] => {
                let help = "one of bridge=NAME, tap=NAME, new-tap=on, macvtap=LOWER, vdpa=NODE and vhostuser=SOCKET is needed";
                return Err(Fault::new(whole, Problem::NoBackend).help(help));
            }
            [only] => only,
            [(first, earlier), (second, later), ..] => {
                let fault = Fault::new(later.span(), Problem::TwoBackends(first, second));
                return Err(fault.beside(earlier.span()));
            }
        };
        if key == Key::NewTap {
            self.read(key, value::new_tap)?;
            return Ok((key, Backend::NewTap));
        }
        if key == Key::Vdpa {
            let node = VdpaNode::new(&given.value)
                .ok_or_else(|| self.bad_value(given, Problem::VdpaNode(quoted(&given.value))))?;
            return Ok((key, Backend::Vdpa(node)));
        }
        if key == Key::VhostUser {
            let socket = SocketPath::new(&given.value)
                .ok_or_else(|| self.bad_value(given, Problem::SocketPath(quoted(&given.value))))?;
            return Ok((key, Backend::VhostUser(socket)));
        }
        let name: IfName =
            given.value.parse().map_err(|error| self.bad_value(given, Problem::IfName(error)))?;
        let backend = match key {
            Key::Tap => Backend::Tap(name),
            Key::Macvtap => {
                let mode = self.read(Key::Mode, value::mode)?.unwrap_or_default();
                Backend::Macvtap { lower: name, mode }
            }
            _ => Backend::Bridge(name),
        };
        Ok((key, backend))
    }

    fn vhost(&self, spec: &NicSpec) -> Result<Vhost, Fault> {
        if let Backend::Vdpa(_) | Backend::VhostUser(_) = spec.backend {
            return Ok(Vhost::Off);
        }
        let asked = self.read(Key::Vhost, value::vhost)?.unwrap_or(Vhost::Auto);
        let vhost = if spec.model.can_vhost() {
            asked
        } else {
            if asked == Vhost::On {
                self.refuse(Key::Vhost, Key::Model, Problem::NoVhostModel(spec.model.clone()))?;
            }
            Vhost::Off
        };
        if vhost == Vhost::Off {
            let cause = if asked == Vhost::Off { Key::Vhost } else { Key::Model };
            self.refuse(Key::VhostPath, cause, Problem::VhostPathUnused)?;
        }
        Ok(vhost)
    }

    fn ifname(&self, backend_key: Key, backend: &Backend) -> Result<Option<IfName>, Fault> {
        let ifname: Option<IfName> = self.read(Key::Ifname, |text| Ok(text.parse()?))?;
        if let Backend::Bridge(below) | Backend::Tap(below) | Backend::Macvtap { lower: below, .. } = backend
            && ifname.as_ref() == Some(below)
        {
            self.refuse(Key::Ifname, backend_key, Problem::NameOfBackend(below.clone()))?;
        }
        Ok(ifname)
    }

    /// The filters with their parameters; taptrail's own are checked as a whole.
    fn filters(&self, mac: Option<MacAddr>) -> Result<Option<FilterChoice>, Fault> {
        let mut names = Vec::new();
        for given in self.all(Key::Filter) {
            names.push(value::filter(&given.value).map_err(|problem| self.bad_value(given, problem))?);
        }
        let mut choice = FilterChoice::new(names);
        for key in Key::REPEATED.into_iter().filter(|key| *key != Key::Filter).chain([Key::IpLearning]) {
            for given in self.all(key) {
                if choice.filters().is_empty() {
                    return Err(Fault::new(given.span(), Problem::NoFilter(key)));
                }
                let added = match FilterChoice::variable_of(key) {
                    Some(variable) => choice.add_parameter(variable, &given.value),
                    None => {
                        let (name, value) = given.value.split_once('=').unwrap_or((&given.value, ""));
                        choice.add_parameter(name, value)
                    }
                };
                added.map_err(|problem| Fault::new(given.value_span.clone(), problem))?;
            }
        }
        let Some(first) = self.get(Key::Filter) else { return Ok(None) };
        if choice.is_shipped() {
            // Any MAC will do: what is wrong does not hang on it.
            let mac = mac.unwrap_or(MacAddr::kvm([0, 0, 1]));
            choice
                .rules(&Store::shipped(), mac)
                .map_err(|problem| Fault::new(first.value_span.clone(), problem))?;
        }
        Ok(Some(choice))
    }

    /// Fails with `problem` at `key`, pointing at `other` beside it; well if `key` was not given.
    fn refuse(&self, key: Key, other: Key, problem: Problem) -> Result<(), Fault> {
        if self.get(key).is_some() { Err(self.two(key, other, problem)) } else { Ok(()) }
    }

    /// The fault of two keys that exclude each other, at the first that was given.
    fn two(&self, key: Key, other: Key, problem: Problem) -> Fault {
        match (self.get(key), self.get(other)) {
            (Some(given), Some(other)) => Fault::new(given.span(), problem).beside(other.span()),
            (Some(given), None) | (None, Some(given)) => Fault::new(given.span(), problem),
            (None, None) => Fault::new(0..0, problem),
        }
    }
}
