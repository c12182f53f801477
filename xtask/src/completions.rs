//! `completions`: the scripts by which shells ask the program what can stand at the cursor. They
//! know no command and no option, and are in packaging/completions as they are installed.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cli::CompletionsArguments;

const SCRIPTS: [(&str, &str); 3] = [
    ("taptrail.bash", include_str!("../../packaging/completions/taptrail.bash")),
    ("_taptrail", include_str!("../../packaging/completions/_taptrail")),
    ("taptrail.fish", include_str!("../../packaging/completions/taptrail.fish")),
];

pub(crate) fn write(arguments: &CompletionsArguments) -> Result<ExitCode> {
    std::fs::create_dir_all(&arguments.dir)
        .with_context(|| format!("Directory {} can't be made", arguments.dir.display()))?;
    for (name, script) in SCRIPTS {
        let file = arguments.dir.join(name);
        std::fs::write(&file, script).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
