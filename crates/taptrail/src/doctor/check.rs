//! What one check found, and what it is needed for.

use crate::cli::Job;

/// Whether a thing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Ok,
    Missing,
    /// It could not be seen, most often for lack of rights.
    Unknown,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// How much a job needs a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// The job fails without it, as it is done by default.
    Essential,
    /// The job does less without it.
    Useful,
}

/// A group of checks, and the heading above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    Rights,
    Kernel,
    Auditing,
    Libvirt,
    Programs,
    State,
}

impl Area {
    pub(super) const ALL: [Self; 6] =
        [Self::Rights, Self::Kernel, Self::Auditing, Self::Libvirt, Self::Programs, Self::State];

    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Rights => "Rights of the caller",
            Self::Kernel => "Kernel",
            Self::Auditing => "Auditing",
            Self::Libvirt => "libvirt",
            Self::Programs => "Programs and units",
            Self::State => "Directories and ledger",
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rights => "rights",
            Self::Kernel => "kernel",
            Self::Auditing => "auditing",
            Self::Libvirt => "libvirt",
            Self::Programs => "programs",
            Self::State => "state",
        }
    }
}

/// A thing that is checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) area: Area,
    /// A word for programs, which stays.
    pub(super) id: &'static str,
    /// What it is needed for, as the end of "Needed for".
    pub(super) purpose: &'static str,
    pub(super) needs: &'static [(Job, Weight)],
}

/// What was found of a thing.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) subject: Subject,
    pub(super) status: Status,
    /// What was seen, as a sentence without its end.
    pub(super) found: String,
    /// What to do; None if nothing is to be done.
    pub(super) way_out: Option<String>,
}

impl Subject {
    pub(super) fn ok(self, found: impl Into<String>) -> Check {
        Check { subject: self, status: Status::Ok, found: found.into(), way_out: None }
    }

    pub(super) fn missing(self, found: impl Into<String>, way_out: impl Into<String>) -> Check {
        Check { subject: self, status: Status::Missing, found: found.into(), way_out: Some(way_out.into()) }
    }

    pub(super) fn unknown(self, found: impl Into<String>, way_out: impl Into<String>) -> Check {
        Check { subject: self, status: Status::Unknown, found: found.into(), way_out: Some(way_out.into()) }
    }
}

impl Check {
    /// How much a job needs it; None if it has no use for it.
    pub(super) fn weight(&self, job: Job) -> Option<Weight> {
        self.subject.needs.iter().find(|(known, _)| *known == job).map(|(_, weight)| *weight)
    }

    fn is(&self, job: Job, weight: Weight, status: Status) -> bool {
        self.weight(job) == Some(weight) && self.status == status
    }
}

/// Whether a job can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Something essential is missing.
    Lacking,
    /// Nothing essential is known to be missing, and something is not known.
    Unknown,
}

impl Readiness {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Lacking => "lacking",
            Self::Unknown => "unknown",
        }
    }
}

/// What the checks say about one job.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) job: Job,
    pub(super) readiness: Readiness,
    /// The ids of the things that are essential and missing, essential and not known, and useful
    /// and missing.
    pub(super) missing: Vec<&'static str>,
    pub(super) unknown: Vec<&'static str>,
    pub(super) without: Vec<&'static str>,
}

impl Verdict {
    pub(super) fn of(job: Job, checks: &[Check]) -> Self {
        let ids = |weight, status| -> Vec<_> {
            let found = checks.iter().filter(|check| check.is(job, weight, status));
            found.map(|check| check.subject.id).collect()
        };
        let missing = ids(Weight::Essential, Status::Missing);
        let unknown = ids(Weight::Essential, Status::Unknown);
        let readiness = match () {
            () if !missing.is_empty() => Readiness::Lacking,
            () if !unknown.is_empty() => Readiness::Unknown,
            () => Readiness::Ready,
        };
        Self { job, readiness, missing, unknown, without: ids(Weight::Useful, Status::Missing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Subject = Subject {
        area: Area::Kernel,
        id: "device",
        purpose: "tests",
        needs: &[(Job::Run, Weight::Essential), (Job::Watch, Weight::Useful)],
    };
    const LOG: Subject = Subject {
        area: Area::Auditing,
        id: "log",
        purpose: "tests",
        needs: &[(Job::Run, Weight::Essential), (Job::Read, Weight::Essential)],
    };

    #[test]
    fn a_job_is_ready_when_all_that_is_essential_is_there() {
        let verdict = |checks: &[Check], job| Verdict::of(job, checks).readiness;
        let (there, gone) = (DEVICE.ok("there"), DEVICE.missing("gone", "get it"));
        let unseen = LOG.unknown("unseen", "be root");
        assert_eq!(verdict(&[there.clone(), LOG.ok("there")], Job::Run), Readiness::Ready);
        assert_eq!(verdict(&[there.clone(), unseen.clone()], Job::Run), Readiness::Unknown);
        assert_eq!(verdict(&[gone.clone(), unseen.clone()], Job::Run), Readiness::Lacking);
        // What is only useful decides nothing, and what a job has no use for is not named.
        let watch = Verdict::of(Job::Watch, &[gone.clone(), unseen.clone()]);
        assert_eq!((watch.readiness, &watch.without[..]), (Readiness::Ready, &["device"][..]));
        let read = Verdict::of(Job::Read, &[gone, unseen]);
        assert_eq!((read.readiness, &read.unknown[..]), (Readiness::Unknown, &["log"][..]));
        assert!(read.missing.is_empty() && read.without.is_empty());
    }
}
