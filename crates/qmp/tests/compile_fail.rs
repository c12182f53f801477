//! What must not compile: QEMU gets no descriptor over its monitor but an audited one.

#[test]
fn a_descriptor_without_its_record_cannot_be_sent() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
