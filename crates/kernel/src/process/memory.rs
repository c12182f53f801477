use std::io;
use std::ops::Range;

/// Gives back the code that was run, some MiB of a process that waits for most of its life.
///
/// With each page of code that is run the kernel maps all that lies around it, and none is given back before memory gets
/// short. What is run again is mapped again, from the page cache, in microseconds.
///
/// # Errors
/// When `/proc/self/maps` can't be read.
pub fn shed_code() -> io::Result<()> {
    for code in code(&std::fs::read_to_string("/proc/self/maps")?) {
        // SAFETY: a file's private mapping that can't be written to has nothing but the file's bytes, which come back
        // at the next touch. That is so of code, and not of constants: the linker writes addresses into those first.
        unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// The mappings of files that can be run and not written to, proc_pid_maps(5).
fn code(maps: &str) -> impl Iterator<Item = Range<usize>> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, mode, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let address = |hex| usize::from_str_radix(hex, 16).ok();
        (mode == "r-xp" && path.starts_with('/')).then_some(address(start)?..address(end)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        let maps = "\
559d6b4a3000-559d6b4b1000 r--p 00000000 fe:00 1234   /usr/bin/taptrail
559d6b4b1000-559d6b9b1000 r-xp 0000e000 fe:00 1234   /usr/bin/taptrail
559d6b9b1000-559d6b9c1000 rw-p 0050e000 fe:00 1234   /usr/bin/taptrail
7f1c00000000-7f1c00021000 rw-p 00000000 00:00 0
7f1c10000000-7f1c10021000 r-xp 00000000 00:00 0
7ffd1d3fe000-7ffd1d400000 r-xp 00000000 00:00 0      [vdso]
";
        let code: Vec<_> = code(maps).map(|code| (code.start, code.end)).collect();
        assert_eq!(code, [(0x559d_6b4b_1000, 0x559d_6b9b_1000)]);
    }

    #[test]
    fn what_was_given_back_runs_on() {
        shed_code().unwrap();
        assert_eq!("42".parse::<u8>().unwrap() + 1, 43);
    }
}
