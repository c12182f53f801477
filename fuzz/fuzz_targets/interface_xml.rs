//! Any `attach --xml` file: no panic, no unbounded work, an accepted interface can be written as a
//! SPEC, and each error can be rendered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_guest::spec::NicSpec;
use taptrail_guest::xml::{self, Networks};

fuzz_target!(|text: &str| {
    match xml::parse(text, "nic.xml", &Networks::default()) {
        Ok(read) => {
            let nic = read.nic;
            let again: NicSpec = nic.to_string().parse().expect("the canonical form is a SPEC");
            assert_eq!(again, nic);
        }
        Err(error) => {
            let _ = xml::parse_domain(text, "nic.xml", &Networks::default());
            let mut networks = Networks::default();
            if networks.add(text, "nic.xml").is_ok() {
                for group in ["", "portgroup='g'"] {
                    let of = format!("<interface type='network'><source network='n' {group}/></interface>");
                    let _ = xml::parse(&of, "nic.xml", &networks);
                }
            }
            assert!(error.line >= 1 && error.column >= 1);
            assert_eq!(error.to_string().lines().count(), 1);
            assert!(!error.render(false).contains('\u{1b}'));
            error.render(true);
        }
    }
});
