//! A Spark cluster on loopback: a master and two workers, each a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::store::{free_port, http};
use super::{println, say};
use crate::interrupt;
use crate::programs::{Background, wait_for};
use crate::python::Python;

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    port: u16,
    /// The page of the driver, the process that asks.
    driver_port: u16,
    configuration: PathBuf,
    workers: Vec<Background>,
    _master: Background,
}

impl Cluster {
    pub(super) fn start(python: &Python, dir: &Path) -> Result<Self> {
        let (port, page, driver_port) = (free_port()?, free_port()?, free_port()?);
        let home = python.spark_home()?;
        let configuration = dir.join("spark");
        fs::create_dir(&configuration)?;
        // Many small tasks, so that a killed worker has some of them.
        let defaults = format!(
            "spark.driver.host 127.0.0.1\nspark.driver.bindAddress 127.0.0.1\nspark.driver.memory 1g\n\
             spark.executor.memory 1g\nspark.executor.cores 1\nspark.ui.port {driver_port}\n\
             spark.sql.shuffle.partitions 16\nspark.sql.adaptive.coalescePartitions.enabled false\n\
             spark.local.dir {}\n",
            dir.display()
        );
        fs::write(configuration.join("spark-defaults.conf"), defaults)?;
        let process = |name: &str, class: &str, arguments: &[&str]| {
            let log = fs::File::create(dir.join(format!("{name}.log")))?;
            let mut command = Command::new(home.join("bin/spark-class"));
            command.arg(class).args(["--host", "127.0.0.1"]).args(arguments);
            command.env("SPARK_HOME", &home).env("SPARK_CONF_DIR", &configuration);
            command.env("SPARK_DAEMON_MEMORY", "256m").env("SPARK_LOCAL_IP", "127.0.0.1");
            command.env("SPARK_WORKER_DIR", dir.join(name)).env("TZ", "UTC");
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            Background::start(&mut command)
        };
        let master = "org.apache.spark.deploy.master.Master";
        let ports = ["--port", &port.to_string(), "--webui-port", &page.to_string()];
        let master = process("master", master, &ports)?;
        let url = format!("spark://127.0.0.1:{port}");
        wait_for("Spark's master", || Ok(http("GET", page, "/json/").is_ok()))?;
        let worker = "org.apache.spark.deploy.worker.Worker";
        let own = |number: u16| {
            let page = free_port()?.to_string();
            process(
                &format!("worker{number}"),
                worker,
                &["--cores", "1", "--memory", "1g", "--webui-port", &page, &url],
            )
        };
        let workers = vec![own(1)?, own(2)?];
        wait_for("Spark's workers", || {
            let state: Value = serde_json::from_str(&http("GET", page, "/json/")?)?;
            Ok(state["aliveworkers"] == 2)
        })?;
        Ok(Self { port, driver_port, configuration, workers, _master: master })
    }

    pub(super) fn url(&self) -> String {
        format!("spark://127.0.0.1:{}", self.port)
    }

    /// What the driver has in its environment.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("SPARK_CONF_DIR", self.configuration.display().to_string()),
            ("SPARK_LOCAL_IP", "127.0.0.1".to_owned()),
        ]
    }

    /// What the driver's page says.
    fn driver(&self, what: &str) -> Result<Value> {
        let all: Value = serde_json::from_str(&http("GET", self.driver_port, "/api/v1/applications")?)?;
        let id = all[0]["id"].as_str().context("no application")?.to_owned();
        Ok(serde_json::from_str(&http(
            "GET",
            self.driver_port,
            &format!("/api/v1/applications/{id}/{what}"),
        )?)?)
    }
}

/// Runs a command, and kills a worker and its executor once tasks of a stage are done and others
/// are not. Returns the command's output.
pub(super) fn with_a_killed_worker(mut cluster: Cluster, mut command: Command) -> Result<String> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let killed = kill_a_worker(&mut cluster, &child);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    killed.with_context(|| said.clone())?;
    ensure!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout).context("no text")
}

fn kill_a_worker(cluster: &mut Cluster, child: &Child) -> Result<()> {
    let is_running = || Path::new(&format!("/proc/{}/fd/1", child.id())).exists();
    let is_busy = |stage: &Value| {
        let count = |name: &str| stage[name].as_u64().unwrap_or_default();
        count("numCompleteTasks") > 0 && count("numCompleteTasks") < count("numTasks")
    };
    wait_for("a stage with tasks done and to do, on two executors", || {
        ensure!(is_running(), "the questions were answered before a worker could be killed");
        let Ok(stages) = cluster.driver("stages?status=active") else { return Ok(false) };
        let Ok(executors) = cluster.driver("executors") else { return Ok(false) };
        // The driver is one of them.
        let executors = executors.as_array().map_or(0, Vec::len);
        Ok(executors == 3 && stages.as_array().into_iter().flatten().any(is_busy))
    })?;
    let worker = cluster.workers.remove(0);
    let executors = fs::read_to_string(format!("/proc/{0}/task/{0}/children", worker.id()))?;
    let mut pids = vec![worker.id()];
    // A thread of the worker started the executor.
    for task in fs::read_dir(format!("/proc/{}/task", worker.id()))? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    pids.extend(executors.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    pids.sort_unstable();
    pids.dedup();
    if pids.len() < 2 {
        bail!("the worker has no executor");
    }
    for pid in &pids {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::KILL)?;
    }
    drop(worker);
    say(&format!("killed a worker and its executor: {pids:?}"));
    // The driver must have noticed it before it was done.
    wait_for("the driver to lose the executor", || {
        if !is_running() {
            bail!("the questions were answered before the driver lost its executor");
        }
        interrupt::sleep(Duration::from_millis(100))?;
        let Ok(all) = cluster.driver("allexecutors") else { return Ok(false) };
        Ok(all.as_array().into_iter().flatten().any(|executor| executor["isActive"] == false))
    })?;
    let lost = cluster.driver("stages").map(|stages| {
        let failed =
            stages.as_array().into_iter().flatten().filter_map(|stage| stage["numFailedTasks"].as_u64());
        failed.sum::<u64>()
    });
    println(&format!(
        "the driver lost an executor; failed tasks so far: {}",
        lost.map_or("?".to_owned(), |lost| lost.to_string())
    ))
}
