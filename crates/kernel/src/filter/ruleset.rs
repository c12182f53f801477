//! The rules in the format of `libnftables-json(5)`.

use std::borrow::Cow;

use nftables::batch::Batch;
use nftables::expr::{Expression, NamedExpression, Payload, PayloadField};
use nftables::schema::{Chain, NfCmd, NfListObject, NfObject, Nftables, Rule, Table};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use taptrail_record::MacAddr;

use super::{FilterError, FilterHook, Hook, MacFilter};

const TABLE: &str = "taptrail_if";
const CHAIN: &str = "guest";

pub(super) fn table_name(ifindex: u32) -> String {
    format!("{TABLE}{ifindex}")
}

/// Refuses names that `nft` takes for patterns, or can't quote.
pub(super) fn check(filter: &MacFilter) -> Result<(), FilterError> {
    let ifname = filter.ifname.as_str();
    if ifname.contains(['*', '"', '\\']) {
        return Err(FilterError::Name { ifname: ifname.to_owned() });
    }
    Ok(())
}

/// One transaction that makes the table; refused if it is there.
pub(super) fn creation(filter: &MacFilter) -> Result<Vec<u8>, FilterError> {
    let mut batch = Batch::new();
    batch.add_cmd(NfCmd::Create(table(filter.ifindex)));
    add(&mut batch, filter);
    write(filter.ifindex, batch)
}

/// One transaction that makes the table in place of the one that is there.
pub(super) fn replacement(filter: &MacFilter) -> Result<Vec<u8>, FilterError> {
    let mut batch = Batch::new();
    // "add" before "delete", for it may have gone by now, and then can't be deleted.
    batch.add(table(filter.ifindex));
    batch.delete(table(filter.ifindex));
    add(&mut batch, filter);
    write(filter.ifindex, batch)
}

fn add(batch: &mut Batch<'static>, filter: &MacFilter) {
    for object in wanted(filter) {
        batch.add(object);
    }
}

/// One transaction that removes the filter, be it there or not.
pub(super) fn removal(ifindex: u32) -> Result<Vec<u8>, FilterError> {
    let mut batch = Batch::new();
    batch.add(table(ifindex));
    batch.delete(table(ifindex));
    write(ifindex, batch)
}

fn write(ifindex: u32, batch: Batch<'_>) -> Result<Vec<u8>, FilterError> {
    serde_json::to_vec(&batch.to_nftables())
        .map_err(|source| FilterError::Write { table: table_name(ifindex), source })
}

/// The whole table, in the order in which `nft` lists it.
fn wanted(filter: &MacFilter) -> [NfListObject<'static>; 4] {
    let chain = NfListObject::Chain(Chain {
        family: NfFamily::NetDev,
        table: table_name(filter.ifindex).into(),
        name: CHAIN.into(),
        newname: None,
        handle: None,
        _type: Some(NfChainType::Filter),
        hook: Some(match filter.hook {
            Hook::Ingress => NfHook::Ingress,
            Hook::Egress => NfHook::Egress,
        }),
        prio: Some(0),
        dev: Some(filter.ifname.to_string().into()),
        policy: Some(NfChainPolicy::Accept),
    });
    let rule = |protocol, field| {
        NfListObject::Rule(Rule {
            family: NfFamily::NetDev,
            table: table_name(filter.ifindex).into(),
            chain: CHAIN.into(),
            expr: vec![differs(protocol, field, filter.mac), Statement::Drop(None)].into(),
            ..Rule::default()
        })
    };
    [table(filter.ifindex), chain, rule("ether", "saddr"), rule("arp", "saddr ether")]
}

fn table(ifindex: u32) -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::NetDev, name: table_name(ifindex).into(), handle: None })
}

fn differs(protocol: &'static str, field: &'static str, mac: MacAddr) -> Statement<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))),
        right: Expression::String(mac.to_string().into()),
        op: Operator::NEQ,
    })
}

/// Compares a listing of the table with the requested filter.
pub(super) fn compare(filter: &MacFilter, listing: &[u8]) -> Result<(), FilterError> {
    let table = table_name(filter.ifindex);
    let found = objects(&table, listing)?;
    let mut found = found.iter().filter_map(|object| match object {
        NfObject::ListObject(NfListObject::MetainfoObject(_)) => None,
        object => Some(object),
    });
    let refuse = |what| Err(FilterError::Differs { table: table.clone(), what });
    for wanted in wanted(filter) {
        match found.next() {
            Some(NfObject::ListObject(object)) => {
                let found = plain(object.clone(), &wanted);
                if found != wanted {
                    return refuse(format!("{} stands for {}", show(&found), show(&wanted)));
                }
            }
            Some(NfObject::CmdObject(_)) => return refuse("there is a command".to_owned()),
            None => return refuse(format!("{} is missing", show(&wanted))),
        }
    }
    match found.next() {
        None => Ok(()),
        Some(_) => refuse("there is more than the filter".to_owned()),
    }
}

/// Compares the kernel's hook of the table with the requested one: the JSON of `nft` lacks flags
/// and, before 1.0.8, interfaces.
pub(super) fn check_hook(filter: &MacFilter, hook: Option<&FilterHook>) -> Result<(), FilterError> {
    let refuse = |what| Err(FilterError::Differs { table: table_name(filter.ifindex), what });
    match hook {
        None => refuse("there is none".to_owned()),
        Some(hook) if hook.has_flags => {
            refuse("it or its chain has flags: it may be dormant, or offloaded".to_owned())
        }
        Some(hook) if hook.devices != [filter.ifname.as_str()] => {
            let found = match hook.devices.join("', '") {
                none if none.is_empty() => "to nothing".to_owned(),
                names => format!("to '{names}'"),
            };
            refuse(format!("its chain is not hooked to '{}' alone, but {found}", filter.ifname))
        }
        Some(_) => Ok(()),
    }
}

/// The interface whose filter a table of this name is.
pub(super) fn interface_of_table(name: &str) -> Option<u32> {
    name.strip_prefix(TABLE)?.parse().ok()
}

fn objects(table: &str, listing: &[u8]) -> Result<Cow<'static, [NfObject<'static>]>, FilterError> {
    serde_json::from_slice::<Nftables<'static>>(listing)
        .map(|listing| listing.objects)
        .map_err(|source| FilterError::Read { table: table.to_owned(), source })
}

/// Removes handles, which the kernel assigns.
fn plain(mut object: NfListObject<'static>, wanted: &NfListObject<'static>) -> NfListObject<'static> {
    match (&mut object, wanted) {
        (NfListObject::Table(table), _) => table.handle = None,
        (NfListObject::Rule(rule), _) => rule.handle = None,
        (NfListObject::Chain(chain), NfListObject::Chain(wanted)) => {
            chain.handle = None;
            // nft before 1.0.8 leaves the device out of its JSON; `check_hook` compares it.
            chain.dev = chain.dev.take().or_else(|| wanted.dev.clone());
        }
        _ => {}
    }
    object
}

fn show(object: &NfListObject<'_>) -> String {
    serde_json::to_string(object).unwrap_or_else(|error| format!("something unprintable ({error})"))
}
