//! Prints the kernel's events, one in a line, until it is interrupted: run
//! `cargo run -p taptrail-bpf --example events` as root.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use taptrail_bpf::{Kernel, KernelEvent, KernelEventKind};

fn main() -> ExitCode {
    let mut kernel = match Kernel::load() {
        Ok(kernel) => kernel,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for held in kernel.descriptors().unwrap_or_default() {
        println!("process {} has {:?} as descriptor {}", held.process.pid, held.file, held.fd);
    }
    let mut lost = 0;
    loop {
        for event in kernel.poll() {
            println!("{}", line(&event));
        }
        let now = kernel.lost().map_or(0, |lost| lost.total());
        if now != lost {
            eprintln!("{} events were lost", now - lost);
            lost = now;
        }
        if let Err(error) = poll(&mut [PollFd::new(&kernel, PollFlags::IN)], None) {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
}

fn line(event: &KernelEvent) -> String {
    let who = match event.by.process {
        Some(process) => format!("process {} '{}'", process.pid, event.by.name.escape_default()),
        None => "the kernel".to_owned(),
    };
    let what = match &event.what {
        KernelEventKind::Opened(file) => format!("opened {file:?}"),
        KernelEventKind::Received { file, fd } => format!("was given {file:?} as descriptor {fd}"),
        KernelEventKind::Closed { file, dropped } => {
            format!(
                "closed {file:?} for good, {} ns after its last reference",
                event.since_boot.saturating_sub(*dropped)
            )
        }
        KernelEventKind::Forked { child } => format!("made process {child}"),
        KernelEventKind::Executed => "runs another program".to_owned(),
        KernelEventKind::Exited => "has ended".to_owned(),
    };
    format!("{} ns: {who} {what}", event.since_boot)
}
