use taptrail_guest::Dirs;
use taptrail_report::Summarizer;

use super::coverage;
use super::query::Query;
use super::trail_reader::TrailReader;
use crate::CommandResult;
use crate::cli::Summary;
use crate::output::{page, print_json, style};

pub(crate) fn summary(arguments: &Summary, dirs: &Dirs) -> CommandResult {
    let mut query = Query::new(arguments.utc);
    query.about(&arguments.selection);
    query.times(&arguments.times)?;
    let asked = query.filter.clone();
    let mut summarizer = Summarizer::new(query.filter);
    let mut answer = match TrailReader::new(&mut summarizer)
        .read(&arguments.sources, &asked, dirs)?
        .complete(arguments.sources.stats)
    {
        Ok(answer) => answer,
        Err(code) => return Ok(code),
    };
    coverage::note_unknown(&mut answer, &asked, None);
    let style = style(arguments.utc);
    let summary = summarizer.finish(answer.input(), arguments.by.map(Into::into), &style);
    if arguments.output.is_json() {
        print_json(&summary)?;
    } else {
        page(&summary.text(&style))?;
    }
    Ok(answer.print_warnings(arguments.sources.stats))
}
