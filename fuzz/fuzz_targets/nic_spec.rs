//! Any argument of `--nic`: no panic, an accepted SPEC is parsed to the same from its canonical
//! form, and each error can be rendered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taptrail_guest::spec::{NicSpec, SPEC_LIMIT};

fuzz_target!(|text: &str| {
    match text.parse::<NicSpec>() {
        Ok(nic) => {
            let canonical = nic.to_string();
            assert!(canonical.len() <= SPEC_LIMIT);
            let again: NicSpec = canonical.parse().expect("the canonical form is a SPEC");
            assert_eq!(again, nic);
            assert_eq!(again.to_string(), canonical);
        }
        Err(error) => {
            assert!(error.spec.get(error.span.clone()).is_some());
            assert_eq!(error.to_string().lines().count(), 1);
            assert!(!error.render(false).contains('\u{1b}'));
            error.render(true);
        }
    }
});
