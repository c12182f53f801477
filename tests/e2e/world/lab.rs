//! Real logs of libvirt, from the lab: `tests/data`.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies the logs of a version of libvirt, of at most so many runs, each as a host of its own. Returns
/// their number.
pub(crate) fn copy_logs(version: &str, most: usize, to: &Path) -> usize {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt").join(version);
    let mut runs: Vec<PathBuf> = fs::read_dir(data).unwrap().map(|run| run.unwrap().path()).collect();
    runs.sort();
    runs.truncate(most);
    for run in &runs {
        let host = to.join(format!("{version}-{}", run.file_name().unwrap().to_str().unwrap()));
        fs::create_dir_all(&host).unwrap();
        fs::copy(run.join("audit.log"), host.join("audit.log")).unwrap();
    }
    runs.len()
}
