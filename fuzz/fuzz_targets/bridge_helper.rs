//! The bridge helper's ACL and arguments: no panic, what no line allows is refused, and a further
//! `deny` or comment never allows anything.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use libfuzzer_sys::fuzz_target;
use taptrail_bridge_helper::acl::Acl;
use taptrail_bridge_helper::arguments::Arguments;

fuzz_target!(|bytes: &[u8]| {
    let arguments = bytes.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec()));
    let bridge = match Arguments::parse(arguments) {
        Ok(arguments) => {
            assert!(arguments.fd >= 0);
            arguments.bridge().to_vec()
        }
        Err(_) => b"br0".to_vec(),
    };
    let Ok(acl) = Acl::parse(bytes) else { return };
    let has = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
    let allows = acl.allows(&bridge);
    assert!(!allows || has(b"allow"));
    let with = |line: &[u8]| Acl::parse(&[bytes, b"\n", line].concat()).expect("a good line more");
    assert_eq!(with(b"# allow all").allows(&bridge), allows);
    assert!(!with(b"deny all").allows(&bridge));
    let permitted = with(b"allow all").allows(&bridge);
    assert!(permitted || (!allows && has(b"deny")));
});
