//! Extracts the uncompressed kernel from a bzImage.
//!
//! QEMU enters an uncompressed `vmlinux` directly (by its PVH note), which saves emulating the
//! decompression at each boot. The layout is in the kernel's Documentation/arch/x86/boot.rst, "The
//! Real-Mode Kernel Header".

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

/// The payload's place in the header is known since this version of the boot protocol.
const PROTOCOL: u16 = 0x0208;

/// The `vmlinux` in this bzImage: an ELF file.
pub(super) fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    // The payload ends with the size of what it unpacks to; of gzip that is a part of its format.
    let (packed, size) = payload.split_last_chunk::<4>().context("The kernel's payload is empty")?;
    let size = u32::from_le_bytes(*size);
    let packed: Box<dyn Read> = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::read::XzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(packed)?.single_frame()),
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(payload)),
        [0x7f, b'E', b'L', b'F', ..] => Box::new(packed),
        _ => bail!("The kernel's payload is compressed by neither xz, zstd nor gzip"),
    };
    let mut kernel = Vec::new();
    packed.take(u64::from(size) + 1).read_to_end(&mut kernel).context("The kernel's payload is damaged")?;
    ensure!(
        kernel.len() == size as usize,
        "The kernel's payload unpacks to {} bytes instead of {size}",
        kernel.len()
    );
    ensure!(kernel.starts_with(b"\x7fELF"), "The kernel's payload is no ELF file");
    Ok(kernel)
}

/// The header's payload: the compressed kernel and its size.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let short = "The kernel's file is too short";
    let header = image.get(..0x250).context(short)?;
    ensure!(&header[0x202..0x206] == b"HdrS", "The kernel's file is no bzImage");
    let protocol = u16::from_le_bytes([header[0x206], header[0x207]]);
    ensure!(protocol >= PROTOCOL, "The kernel's boot protocol {protocol:#06x} has no payload");
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // The setup code is one sector and `setup_sects` more; 0 stands for 4.
    let sectors = if header[0x1f1] == 0 { 4 } else { usize::from(header[0x1f1]) };
    let start = (sectors + 1) * 512 + word(0x248) as usize;
    image.get(start..).and_then(|rest| rest.get(..word(0x24c) as usize)).context(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const KERNEL: &[u8] = b"\x7fELF and so on, and so on";

    /// A bzImage with one sector of setup code more than the first, and bytes behind the payload.
    fn image(payload: &[u8], sectors: u8) -> Vec<u8> {
        let setup = (if sectors == 0 { 4 } else { usize::from(sectors) } + 1) * 512;
        let mut image = vec![0; setup + 16];
        image[0x1f1] = sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend(payload);
        image.extend(b"behind it");
        image
    }

    fn with_size(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend(u32::try_from(KERNEL.len()).unwrap().to_le_bytes());
        packed
    }

    fn xz() -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(KERNEL).unwrap();
        with_size(encoder.finish().unwrap())
    }

    fn gzip() -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(KERNEL).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_kernel_is_found_however_it_is_compressed() {
        let zstd = with_size(zstd::encode_all(KERNEL, 3).unwrap());
        for payload in [xz(), zstd, gzip(), with_size(KERNEL.to_vec())] {
            assert_eq!(vmlinux(&image(&payload, 39)).unwrap(), KERNEL);
            assert_eq!(vmlinux(&image(&payload, 0)).unwrap(), KERNEL);
        }
    }

    #[test]
    fn what_is_wrong_with_an_image_is_said() {
        let said = |image: &[u8]| vmlinux(image).unwrap_err().to_string();
        assert_eq!(said(b"MZ"), "The kernel's file is too short");
        assert_eq!(said(&vec![0; 4096]), "The kernel's file is no bzImage");
        let whole = image(&xz(), 1);
        assert_eq!(said(&whole[..1100]), "The kernel's file is too short");
        let mut old = whole.clone();
        old[0x206] = 0x07;
        assert_eq!(said(&old), "The kernel's boot protocol 0x0207 has no payload");
        assert!(said(&image(b"\x02\x21\x4c\x18 lz4", 1)).contains("neither xz, zstd nor gzip"));
        assert_eq!(said(&image(b"", 1)), "The kernel's payload is empty");
        let mut longer = xz();
        let size = longer.len() - 4;
        longer[size] += 1;
        assert!(said(&image(&longer, 1)).contains("instead of 26"), "{}", said(&image(&longer, 1)));
    }

    proptest! {
        #[test]
        fn no_header_panics(noise in proptest::collection::vec(any::<u8>(), 0x250..0x800), good: bool) {
            let mut image = noise;
            if good {
                image[0x202..0x206].copy_from_slice(b"HdrS");
            }
            let _ = payload(&image);
        }
    }
}
