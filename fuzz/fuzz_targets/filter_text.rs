//! Any text with filters, XML or TOML: no panic, no unbounded work, and each error can be rendered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_guest::filter::{FilterChoice, Store};
use taptrail_record::MacAddr;

fuzz_target!(|text: &str| {
    let mut store = Store::shipped();
    match store.add("filter.xml", text) {
        Ok(names) => {
            let mut choice = FilterChoice::new(names);
            for (name, value) in [("IP", "192.0.2.5"), ("IP", "192.0.2.6"), ("A", "80"), ("B", "::1")] {
                choice.add_parameter(name, value).expect("a variable");
            }
            if let Ok(rules) = choice.rules(&store, MacAddr([0x52, 0x54, 0, 0, 0, 1])) {
                assert!(rules.count() <= 1000);
            }
        }
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1);
            assert_eq!(error.to_string().lines().count(), 1);
            assert!(!error.render(false).contains('\u{1b}'));
            error.render(true);
        }
    }
});
