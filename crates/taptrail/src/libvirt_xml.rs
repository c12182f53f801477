//! Interfaces from libvirt's XML: `--xml`, `--domain` and `--network`.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use taptrail_guest::spec::NicSpec;
use taptrail_guest::xml::{self, FromXml, Networks, XmlError};

use crate::cli::FromLibvirt;
use crate::output::{Failure, colors};

/// More than the parser takes, whose error says so.
const MAX_BYTES: u64 = 2 << 20;

/// The interface of a file.
pub(crate) fn interface(file: &Path, from: &FromLibvirt) -> Result<NicSpec, Failure> {
    let text = read(file).map_err(Failure::input)?;
    let read = xml::parse(&text, &file.display().to_string(), &networks(from)?).map_err(pointing)?;
    Ok(noted(read, file))
}

/// The interfaces of the domain, if one is given.
pub(crate) fn domain(from: &FromLibvirt) -> Result<Vec<NicSpec>, Failure> {
    let Some(file) = &from.domain else { return Ok(Vec::new()) };
    let text = read(file).map_err(Failure::input)?;
    let domain = xml::parse_domain(&text, &file.display().to_string(), &networks(from)?).map_err(pointing)?;
    for kind in &domain.left_out {
        tracing::warn!(
            "{}: an interface of type '{kind}' is left out: it needs no tap, and QEMU gets it on its command line",
            file.display()
        );
    }
    if domain.interfaces.is_empty() {
        tracing::warn!("{}: the domain has no interface with a tap or macvtap", file.display());
    }
    Ok(domain.interfaces.into_iter().map(|read| noted(read, file)).collect())
}

fn networks(from: &FromLibvirt) -> Result<Networks, Failure> {
    let mut networks = Networks::of_libvirt();
    for file in &from.network {
        let text = read(file).map_err(Failure::input)?;
        networks.add(&text, &file.display().to_string()).map_err(pointing)?;
    }
    Ok(networks)
}

fn noted(read: FromXml, file: &Path) -> NicSpec {
    let mac = read.nic.mac.map(|mac| format!("{mac}: ")).unwrap_or_default();
    read.notes.iter().for_each(|note| tracing::warn!("{}: {mac}{note}", file.display()));
    read.nic
}

fn pointing(error: XmlError) -> Failure {
    let rendered = error.render(colors(&std::io::stderr()));
    Failure::pointing(error, rendered)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let failed = || format!("{} can't be read", file.display());
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text).with_context(failed)?;
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .with_context(failed)?;
    }
    Ok(text)
}
