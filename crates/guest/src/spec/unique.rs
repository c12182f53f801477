use taptrail_record::IfName;

use super::error::{Fault, Problem, SpecError};
use super::write::Canonical;
use super::{Backend, Key, NicSpec};

/// Checks whether one guest can have all of these interfaces.
///
/// Compares all pairs, as a guest has few NICs.
///
/// # Errors
/// A MAC address, an id, a link's name (`ifname=`, `tap=`), a vDPA device or a vhost-user socket that an earlier one
/// uses; the error points into the later one, in its canonical form.
pub fn check_unique(specs: &[NicSpec]) -> Result<(), SpecError> {
    let Some(Clash { later, key, problem, .. }) = first_clash(specs) else { return Ok(()) };
    let canonical = Canonical::from(&specs[later]);
    let span = canonical.span(key).unwrap_or(0..canonical.text.len());
    Err(SpecError::new(&canonical.text, Fault::new(span, problem)))
}

/// Two interfaces that one guest can't have together.
pub(crate) struct Clash {
    /// Their places in the list.
    pub(crate) earlier: usize,
    pub(crate) later: usize,
    pub(crate) key: Key,
    pub(crate) problem: Problem,
}

/// The first that [`check_unique`] finds.
pub(crate) fn first_clash(specs: &[NicSpec]) -> Option<Clash> {
    let pairs = (0..specs.len()).flat_map(|later| (0..later).map(move |earlier| (earlier, later)));
    pairs.into_iter().find_map(|(earlier, later)| {
        let (key, problem) = clash(&specs[earlier], &specs[later])?;
        Some(Clash { earlier, later, key, problem })
    })
}

/// The key and value of `later` that `earlier` already has.
fn clash(earlier: &NicSpec, later: &NicSpec) -> Option<(Key, Problem)> {
    if let Some(mac) = later.mac.filter(|_| later.mac == earlier.mac) {
        return Some((Key::Mac, Problem::MacInUse(mac)));
    }
    if let Some(id) = later.id.as_ref().filter(|_| later.id == earlier.id) {
        return Some((Key::Id, Problem::IdInUse(id.clone())));
    }
    if let (Backend::Vdpa(node), true) = (&later.backend, later.backend == earlier.backend) {
        return Some((Key::Vdpa, Problem::VdpaInUse(node.clone())));
    }
    if let (Backend::VhostUser(socket), true) = (&later.backend, later.backend == earlier.backend) {
        return Some((Key::VhostUser, Problem::SocketInUse(socket.clone())));
    }
    let place = |spec: &NicSpec| {
        let found = spec.properties.iter().find(|(property, _)| property.is_place());
        found.map(|(property, value)| (*property, place_of(value)))
    };
    if let Some((property, _)) = place(later).filter(|_| place(later) == place(earlier)) {
        return Some((Key::Device(property), Problem::PlaceInUse));
    }
    let (key, link) = own_link(later)?;
    let taken = own_link(earlier).is_some_and(|(_, other)| other == link);
    taken.then(|| (key, Problem::LinkInUse(link.clone())))
}

/// The numbers of a place; that of a function may be left out, and is then 0.
fn place_of(text: &str) -> Vec<Option<u16>> {
    let numbers = text.split('.').chain((!text.contains('.')).then_some("0"));
    numbers.map(|text| u16::from_str_radix(text, 16).ok()).collect()
}

/// The link that only this interface can use, if the SPEC names it.
fn own_link(spec: &NicSpec) -> Option<(Key, &IfName)> {
    match &spec.backend {
        Backend::Tap(name) => Some((Key::Tap, name)),
        Backend::Bridge(_) | Backend::NewTap | Backend::Macvtap { .. } => {
            Some((Key::Ifname, spec.ifname.as_ref()?))
        }
        Backend::Vdpa(_) | Backend::VhostUser(_) => None,
    }
}
