//! The protocol over one virtio-serial port: frames of a kind, a length and bytes.
//!
//! ```text
//! host                                   virtual machine
//!      ◀─────────────────────────────── Hello
//!      Modules Directory Argument… Variable… Run ──▶
//!      ◀────────────── Stdout, Stderr, as they come
//!      ◀────────────────────────────── Status (last)
//! ```
//!
//! There is one port, so that all output arrives before the status.

use std::io::{self, Read, Write};

use anyhow::{Result, bail};

/// The port's name, by which the virtual machine finds it.
pub(crate) const PORT: &str = "taptrail.xtask";

/// The longest bytes of a frame. Linux takes a single argument of at most 128 KiB (execve(2)).
pub(crate) const LONGEST: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The virtual machine is up.
    Hello = b'h',
    /// Where the kernel's modules are: a path.
    Modules = b'm',
    /// Where the command starts: a path.
    Directory = b'd',
    /// The program, then each of its arguments.
    Argument = b'a',
    /// `NAME=VALUE`.
    Variable = b'v',
    /// The end of the request.
    Run = b'r',
    /// A part of the command's standard output.
    Stdout = b'o',
    /// A part of the command's other output.
    Stderr = b'e',
    /// The command's exit status: one byte.
    Status = b's',
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Hello,
        Self::Modules,
        Self::Directory,
        Self::Argument,
        Self::Variable,
        Self::Run,
        Self::Stdout,
        Self::Stderr,
        Self::Status,
    ];
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

/// Writes one frame.
pub(crate) fn send(mut port: impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("an argument is longer than Linux takes"))?;
    let mut frame = Vec::with_capacity(5 + bytes.len());
    frame.push(kind as u8);
    frame.extend(length.to_le_bytes());
    frame.extend(bytes);
    port.write_all(&frame)
}

/// Parses frames from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
    }

    /// The next frame, if all of it is here.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        let Some((head, rest)) = self.pending.split_first_chunk::<5>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        let Some(kind) = Kind::ALL.into_iter().find(|known| *known as u8 == kind) else {
            bail!("The port has a frame of no known kind: {kind:#04x}")
        };
        if length > LONGEST {
            bail!("The port has a frame of {length} bytes");
        }
        let Some(bytes) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.pending.drain(..5 + length);
        Ok(Some(Frame { kind, bytes }))
    }

    /// Waits for the next frame.
    pub(crate) fn wait(&mut self, mut port: impl Read) -> Result<Frame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.next()? {
                return Ok(frame);
            }
            match port.read(&mut buffer)? {
                0 => bail!("The port was closed"),
                count => self.push(&buffer[..count]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(bytes: Vec<u8>, cut in 1_usize..20) {
            let mut wire = Vec::new();
            for kind in Kind::ALL {
                send(&mut wire, kind, &bytes).unwrap();
            }
            let mut frames = Frames::default();
            let mut came = Vec::new();
            for piece in wire.chunks(cut) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    came.push(frame);
                }
            }
            let sent: Vec<Frame> = Kind::ALL.map(|kind| Frame { kind, bytes: bytes.clone() }).into();
            prop_assert_eq!(came, sent);
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let mut frames = Frames::default();
            frames.push(&noise);
            while let Ok(Some(_)) = frames.next() {}
        }
    }

    #[test]
    fn a_frame_too_long_is_neither_sent_nor_taken() {
        assert!(send(Vec::new(), Kind::Argument, &vec![b'a'; LONGEST + 1]).is_err());
        let mut frames = Frames::default();
        frames.push(b"a\xff\xff\xff\xff");
        assert!(frames.next().unwrap_err().to_string().contains("4294967295 bytes"));
    }
}
