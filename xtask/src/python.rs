//! Virtual environments with engines that read a lake.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::programs::output_of;

/// The versions of all engines that are tested, with an S3 server: 2 GB of disk.
pub(crate) const ENGINES: &str = "duckdb==2.0.1\nchdb==4.4.0\npyspark==4.3.0\nmoto[server,s3]==5.2.5\n";

/// DuckDB alone.
pub(crate) const DUCKDB: &str = "duckdb==2.0.1\n";

/// A virtual environment.
#[derive(Debug)]
pub(crate) struct Python(PathBuf);

impl Python {
    /// Makes an environment, unless it is there with these versions.
    pub(crate) fn prepare(target: &Path, requirements: &str) -> Result<Self> {
        let python = Self(target.join("venv"));
        let done = python.0.join("requirements.txt");
        if fs::read_to_string(&done).is_ok_and(|installed| installed == requirements) {
            return Ok(python);
        }
        let wanted = target.join("requirements.txt");
        fs::create_dir_all(target).with_context(|| target.display().to_string())?;
        fs::write(&wanted, requirements)?;
        output_of(Command::new("/usr/bin/env").args(["python3", "-m", "venv"]).arg(&python.0))?;
        output_of(
            Command::new(python.program()).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wanted),
        )?;
        fs::write(&done, requirements).with_context(|| done.display().to_string())?;
        Ok(python)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.script("python3")
    }

    /// A program of the environment.
    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    /// Where Spark is.
    pub(crate) fn spark_home(&self) -> Result<PathBuf> {
        let lib = fs::read_dir(self.0.join("lib"))?.next().context("the environment has no modules")??;
        Ok(lib.path().join("site-packages/pyspark"))
    }
}
