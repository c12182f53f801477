//! Any guest file: no panic, no unbounded work, and each error can be rendered with its position.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use taptrail_guest::file::{self, Part};
use taptrail_guest::spec::check_unique;

fuzz_target!(|text: &str| {
    let error = match file::parse(text, Path::new("web1.toml")) {
        Ok(file) => {
            assert!(!file.request.name.is_empty() && !file.request.command.is_empty());
            assert!(check_unique(&file.request.nics).is_ok());
            file.wrong(Part::Word(file.request.command.len() - 1), "no", None)
        }
        Err(error) => error,
    };
    assert!(error.line >= 1 && error.column >= 1);
    assert_eq!(error.to_string().lines().count(), 1);
    assert!(!error.render(false).contains('\u{1b}'));
    error.render(true);
});
