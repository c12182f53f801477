use std::io;
use std::ops::Range;

/// Releases this process's mapped pages of code, some MiB of a process that mostly waits.
///
/// With each page of code that is executed, the kernel maps the surrounding pages, and unmaps none
/// before memory is short. Released pages are mapped again from the page cache when they are
/// executed, in microseconds.
///
/// # Errors
///
/// `/proc/self/maps` can't be read.
pub fn release_text_pages() -> io::Result<()> {
    for code in code(&std::fs::read_to_string("/proc/self/maps")?) {
        // SAFETY: a file's private mapping that can't be written to has only the file's bytes,
        // which are mapped again at the next access. This is true of code, and not of constants:
        // the dynamic linker writes addresses into those.
        unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// The mappings of files that are executable and not writable, proc_pid_maps(5).
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
    fn only_code_of_files_is_released() {
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
    fn released_code_can_be_executed() {
        release_text_pages().unwrap();
        assert_eq!("42".parse::<u8>().unwrap() + 1, 43);
    }
}
