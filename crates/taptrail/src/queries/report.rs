//! `taptrail report`: a trail as a page or a picture.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use taptrail_guest::Dirs;
use taptrail_lake::LakeReader;
use taptrail_report::{Evidence, FileEvidence, Hash, MAX_PAGE_LINES, Selected, escape_text, page_proofs};
use taptrail_trail::Proof;

use super::query::Query;
use super::trail_reader::{self, TrailReader, is_broken_pipe};
use super::{NOT_COVERED, coverage};
use crate::CommandResult;
use crate::cli::{PictureFormat, Report};
use crate::output::{Failure, stdout, style};
use crate::private_file::PrivateFile;
use crate::reading::InputStamps;

pub(crate) fn report(arguments: &Report, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.utc);
    query.about(&arguments.selection);
    query.times(&arguments.times)?;
    let stamps = InputStamps::of(&arguments.sources, dirs);
    let target = target(&arguments.output, &stamps)?;
    let filter = query.filter.clone();
    let mut selected = Selected::new(query.filter);
    let mut answer = match TrailReader::new(&mut selected)
        .read(&arguments.sources, &filter, dirs)?
        .complete(arguments.sources.stats)
    {
        Ok(answer) => answer,
        Err(code) => return Ok(code),
    };
    let none = selected.is_empty().then_some(selected.maybe_matching());
    let unknown = coverage::note_unknown(&mut answer, &filter, none);
    let report = selected.finish(answer.input());
    let evidence = Evidence {
        program: format!("taptrail {}", env!("CARGO_PKG_VERSION")),
        command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        generated: Timestamp::now(),
        files: match answer.lake() {
            None => stamps.hash(&report.input.files, answer.identities()),
            Some(lake) => vec![lake_evidence(lake)],
        },
        warnings: answer.warnings().lines().map(str::to_owned).collect(),
    };
    let picture = Picture { arguments, report: &report, evidence: &evidence, answer: &answer };
    let left_out = match target {
        Some(file) => {
            let mut out = BufWriter::with_capacity(64 * 1024, file);
            let written = picture.write(&mut out);
            let written = written.and_then(|left_out| {
                out.into_inner().map_err(io::IntoInnerError::into_error)?.commit()?;
                Ok(left_out)
            });
            written.map_err(|error| unwritten(&arguments.output, error))?
        }
        None => {
            let mut out = stdout();
            match picture.write(&mut out).and_then(|left_out| out.flush().map(|()| left_out)) {
                Err(error) if is_broken_pipe(&error) => Vec::new(),
                written => written.map_err(trail_reader::unwritten)?,
            }
        }
    };
    for sentence in left_out {
        // There is no other place to report an error of this.
        let _ = writeln!(io::stderr(), "taptrail: Left out: {}", escape_text(&sentence));
    }
    let done = answer.print_warnings(arguments.sources.stats);
    let nothing = report.holdings.is_empty() && report.findings.is_empty() && done == ExitCode::SUCCESS;
    Ok(if unknown && nothing { NOT_COVERED.into() } else { done })
}

/// From what of a lake a report is made: its root has the hash of the manifest with the hashes of all
/// objects.
fn lake_evidence(lake: &LakeReader) -> FileEvidence {
    let snapshot = lake.snapshot();
    let batches = snapshot.batches.len();
    let generation = match &snapshot.root {
        Some(root) => format!("its root is {root}"),
        None => "it has no generation".to_owned(),
    };
    let hash =
        Hash::None(format!("a lake: {generation}, and it has {batches} batches that are not compacted"));
    FileEvidence { path: lake.url().to_owned(), hash }
}

/// The file to write, begun before anything is read; none for standard output.
fn target(path: &Path, stamps: &InputStamps) -> Result<Option<PrivateFile>, Failure> {
    if path == Path::new("-") {
        return Ok(None);
    }
    if let Some(input) = stamps.find(path) {
        return Err(Failure::input(anyhow::anyhow!(
            "{} is an input ({}), which the report would replace: give another path to -o",
            path.display(),
            input.display()
        )));
    }
    let file = PrivateFile::create(path);
    file.map(Some).map_err(|error| {
        Failure::input(anyhow::Error::new(error).context(format!("{} can't be written", path.display())))
    })
}

fn unwritten(path: &Path, error: io::Error) -> Failure {
    anyhow::Error::new(error).context(format!("{} can't be written", path.display())).into()
}

/// What is written, and all that it needs.
struct Picture<'a> {
    arguments: &'a Report,
    report: &'a taptrail_trail::Report,
    evidence: &'a Evidence,
    answer: &'a trail_reader::ReadSummary,
}

impl Picture<'_> {
    /// Writes it; returns what was left out.
    fn write(&self, out: &mut impl Write) -> io::Result<Vec<String>> {
        let Self { arguments, report, evidence, .. } = self;
        let style = style(arguments.utc);
        match arguments.format {
            PictureFormat::Html => {
                let hosts = report.holdings.iter().map(|of| &*of.host);
                let hosts = hosts.chain(report.findings.iter().map(|of| &*of.host)).collect();
                let lines = self.answer.fetch_lines(&hosts, page_proofs(report), MAX_PAGE_LINES);
                let lines = lines.map_err(|failure| io::Error::other(failure.line()))?;
                let line = |proof: &Proof| lines.get(proof);
                taptrail_report::write_html(report, evidence, &style, &line, out)
            }
            PictureFormat::Perfetto => taptrail_report::write_perfetto(report, evidence, out),
            PictureFormat::Svg => taptrail_report::write_svg(report, evidence, &style, out),
        }
    }
}
