//! The parts of an attach, measured by criterion in the crates' own benchmarks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Place, cargo};
use crate::programs::output_of;

/// The packages and names of the benchmarks. A name is also that of criterion's group.
const BENCHMARKS: [(&str, &str); 3] =
    [("taptrail-kernel", "open"), ("taptrail-kernel", "attach"), ("taptrail-qmp", "hot_plug")];

/// Measures them all. Of each there are criterion's estimate of the median and, from each sample,
/// the time of one iteration in nanoseconds.
pub(super) fn measure(place: &Place) -> Result<Vec<Part>> {
    let home = place.target.join("criterion");
    let mut parts = Vec::new();
    for (package, group) in BENCHMARKS {
        let group_dir = home.join(group);
        if group_dir.exists() {
            fs::remove_dir_all(&group_dir)?;
        }
        let words = ["bench", "--quiet", "--locked", "-p", package, "--bench", group, "--", "--noplot"];
        output_of(cargo()?.args(words).env("CRITERION_HOME", &home))?;
        let mut names: Vec<_> = fs::read_dir(&group_dir)
            .with_context(|| group_dir.display().to_string())?
            .flatten()
            .filter(|entry| entry.path().join("new").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        for name in names {
            parts.push(Part::read(&group_dir.join(&name).join("new"), format!("{group}/{name}"))?);
        }
    }
    Ok(parts)
}

/// One of criterion's benchmarks.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    median_ns: Value,
    samples_ns: Vec<u64>,
}

impl Part {
    fn read(dir: &Path, name: String) -> Result<Self> {
        let read = |file: &str| -> Result<Value> {
            let path = dir.join(file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())
        };
        let (mut estimates, sample) = (read("estimates.json")?, read("sample.json")?);
        let numbers = |key: &str| sample[key].as_array().into_iter().flatten().filter_map(Value::as_f64);
        #[expect(clippy::cast_possible_truncation, reason = "no iteration takes centuries")]
        let samples_ns =
            numbers("times").zip(numbers("iters")).map(|(time, count)| (time / count).round() as u64);
        Ok(Self { name, median_ns: estimates["median"].take(), samples_ns: samples_ns.collect() })
    }

    pub(super) fn json(&self) -> Value {
        json!({ "name": self.name, "median_ns": self.median_ns, "samples_ns": self.samples_ns })
    }

    pub(super) fn times_ms(&self) -> Vec<f64> {
        self.samples_ns.iter().map(|time| *time as f64 / 1e6).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_time_of_one_iteration() {
        let dir = tempfile::tempdir().unwrap();
        let median = r#"{"point_estimate":7.5}"#;
        let estimates = format!(r#"{{"mean":{{}},"median":{median}}}"#);
        fs::write(dir.path().join("estimates.json"), estimates).unwrap();
        fs::write(dir.path().join("sample.json"), r#"{"iters":[2.0,4.0],"times":[10.0,41.0]}"#).unwrap();
        let part = Part::read(dir.path(), "open/bare".to_owned()).unwrap();
        assert_eq!(part.samples_ns, [5, 10]);
        assert_eq!(part.median_ns.to_string(), median);
    }
}
