//! `taptrail adopt`.

use taptrail_guest::{AdoptOptions, Dirs, caller, check_name};

use crate::cli::{Adopt, Cli};
use crate::output::Failure;
use crate::run::supervised;
use crate::unresponsive::claim_failure;
use crate::{CommandResult, background};

pub(crate) fn adopt(cli: &Cli, arguments: &Adopt, dirs: Dirs) -> CommandResult {
    check_name(&arguments.guest).map_err(Failure::input)?;
    let allow: Result<_, _> = arguments.allow.iter().map(|user| caller(user)).collect();
    let allow = allow.map_err(Failure::input)?;
    if arguments.background {
        return background::adopt(cli, arguments);
    }
    let options = AdoptOptions {
        name: arguments.guest.clone(),
        audit: arguments.audit.into(),
        dirs,
        nft: arguments.nft.clone(),
        allow,
        revoke_unfiltered: arguments.revoke_unfiltered,
        bpf: arguments.bpf,
    };
    supervised(arguments.ready_fd, arguments.log.into(), |caller| {
        taptrail_guest::adopt(&options, arguments.stop_timeout, caller)
            .map_err(|error| claim_failure(error, &options.name, &options.dirs))
    })
}
