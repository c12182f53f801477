//! What a ledger's database is made of, and whether it is made of that alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use rusqlite::Connection;

/// The steps from an empty file to the schema that this program writes. A ledger's version is how many of them it has
/// taken: a newer one is refused, an older one takes the rest. A step that was released never changes.
pub(crate) const STEPS: [&str; 4] =
    [include_str!("1.sql"), include_str!("2.sql"), include_str!("3.sql"), include_str!("4.sql")];

/// The version of the whole.
#[allow(clippy::cast_possible_wrap)] // A handful.
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// The steps that a ledger of this version has taken; none where it is not known.
pub(crate) fn steps(version: i64) -> Option<&'static [&'static str]> {
    usize::try_from(version).ok().and_then(|taken| STEPS.get(..taken))
}

/// The first thing in which a database differs from one that these steps make. SQLite runs what stands there: a view in
/// the place of a table gives what its maker likes, and a trigger writes it.
pub(crate) fn differs(connection: &Connection, steps: &[&str]) -> Result<Option<String>, rusqlite::Error> {
    let found = objects(connection)?;
    if steps.len() == STEPS.len() && listing(&found) == MADE {
        return Ok(None);
    }
    let mut expected = expected(steps)?;
    for ((sort, name), sql) in found {
        let shown = |name: &str| name.chars().take(64).flat_map(char::escape_debug).collect::<String>();
        match expected.remove(&(sort.clone(), name.clone())) {
            Some(made) if made == sql => {}
            Some(_) => return Ok(Some(format!("{} '{}' is another", shown(&sort), shown(&name)))),
            None => return Ok(Some(format!("{} '{}' is none of a ledger's", shown(&sort), shown(&name)))),
        }
    }
    Ok(expected.into_keys().next().map(|(sort, name)| format!("{sort} '{name}' is missing")))
}

/// The [`listing`] of what all steps make, which a test compares with them: to run them takes a millisecond, and each
/// command opens the ledger.
const MADE: &str = include_str!("snapshots/taptrail_ledger__schema__tests__made.snap.txt");

/// The objects one after the other, each behind its sort and name.
fn listing(objects: &Objects) -> String {
    let mut listing = String::new();
    for ((sort, name), sql) in objects {
        let sql = sql.as_deref().unwrap_or("made by SQLite");
        // Escaped: no name or statement can look like another object.
        let _ = writeln!(listing, "-- {sort:?} {name:?}\n{sql:?}");
    }
    listing
}

/// What these steps make. Made once for each version.
fn expected(steps: &[&str]) -> Result<Objects, rusqlite::Error> {
    static KNOWN: [OnceLock<Objects>; STEPS.len()] = [const { OnceLock::new() }; STEPS.len()];
    let known = steps.len().checked_sub(1).and_then(|last| KNOWN.get(last));
    if let Some(objects) = known.and_then(OnceLock::get) {
        return Ok(objects.clone());
    }
    let made = Connection::open_in_memory()?;
    steps.iter().try_for_each(|step| made.execute_batch(step))?;
    let objects = objects(&made)?;
    Ok(known.map_or_else(|| objects.clone(), |known| known.get_or_init(|| objects.clone()).clone()))
}

/// Tables, indices, views and triggers, by sort and name, with the statements that made them.
type Objects = BTreeMap<(String, String), Option<String>>;

/// More of them than any ledger has are not read.
fn objects(connection: &Connection) -> Result<Objects, rusqlite::Error> {
    // ANALYZE makes its own, and SQLite lets nobody else write there.
    let sql = "SELECT type, name, sql FROM sqlite_schema
               WHERE NOT (type = 'table' AND name IN ('sqlite_stat1', 'sqlite_stat4')) LIMIT 64";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_made_is_known_without_making_it() {
        insta::assert_binary_snapshot!("made.txt", listing(&expected(&STEPS).unwrap()).into_bytes());
    }
}
