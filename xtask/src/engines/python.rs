//! A virtual environment with the engines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::quietly;

/// The versions that are tested.
const REQUIREMENTS: &str = "duckdb==2.0.1\nchdb==4.4.0\npyspark==4.3.0\nmoto[server,s3]==5.2.5\n";

/// The virtual environment.
#[derive(Debug)]
pub(super) struct Python(PathBuf);

impl Python {
    /// Makes the environment, unless it is there with these versions. It takes 2 GB of disk.
    pub(super) fn prepare(target: &Path) -> Result<Self> {
        let python = Self(target.join("venv"));
        let done = python.0.join("requirements.txt");
        if fs::read_to_string(&done).is_ok_and(|installed| installed == REQUIREMENTS) {
            return Ok(python);
        }
        let wanted = target.join("requirements.txt");
        fs::write(&wanted, REQUIREMENTS)?;
        quietly(Command::new("/usr/bin/env").args(["python3", "-m", "venv"]).arg(&python.0))?;
        quietly(Command::new(python.program()).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wanted))?;
        fs::write(&done, REQUIREMENTS).with_context(|| done.display().to_string())?;
        Ok(python)
    }

    pub(super) fn program(&self) -> PathBuf {
        self.script("python3")
    }

    /// A program of the environment.
    pub(super) fn script(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    /// Where Spark is.
    pub(super) fn spark_home(&self) -> Result<PathBuf> {
        let lib = fs::read_dir(self.0.join("lib"))?.next().context("the environment has no modules")??;
        Ok(lib.path().join("site-packages/pyspark"))
    }
}
