//! Code that must not compile: passing a descriptor to QEMU that is not audited.

// Shows 1.1.
#[test]
fn a_descriptor_without_its_record_cannot_be_sent() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
