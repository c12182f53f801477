//! Code that would pass a device to QEMU without a record does not compile.

// Shows 1.1.
#[test]
fn a_device_without_a_record_can_not_be_handed_over() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
