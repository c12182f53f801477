//! The schema of a ledger's database, and the check that a database has exactly this schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rusqlite::Connection;

/// The migration steps from an empty file to this program's schema. A ledger's version is the
/// number of steps applied: a newer one is refused, an older one gets the remaining steps. A
/// released step never changes.
pub(crate) const STEPS: [&str; 7] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
    include_str!("5.sql"),
    include_str!("6.sql"),
    include_str!("7.sql"),
];

/// The version of this program's schema.
#[allow(clippy::cast_possible_wrap)] // A handful.
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// The migration steps applied to a ledger of this version; none if the version is unknown.
pub(crate) fn steps(version: i64) -> Option<&'static [&'static str]> {
    usize::try_from(version).ok().and_then(|taken| STEPS.get(..taken))
}

/// The first difference between a database's schema and the one that these steps create. A view
/// instead of a table could return, and a trigger could write, arbitrary rows.
pub(crate) fn find_difference(
    connection: &Connection,
    steps: &[&str],
) -> Result<Option<String>, rusqlite::Error> {
    let found = objects(connection)?;
    if steps.len() == STEPS.len() && listing(&found) == EXPECTED_LISTING {
        return Ok(None);
    }
    let mut expected = expected(steps)?;
    for ((sort, name), sql) in found {
        let shown = |name: &str| name.chars().take(64).flat_map(char::escape_debug).collect::<String>();
        match expected.remove(&(sort.clone(), name.clone())) {
            Some(expected) if expected == sql => {}
            Some(_) => return Ok(Some(format!("{} '{}' is another", shown(&sort), shown(&name)))),
            None => return Ok(Some(format!("{} '{}' is none of a ledger's", shown(&sort), shown(&name)))),
        }
    }
    Ok(expected.into_keys().next().map(|(sort, name)| format!("{sort} '{name}' is missing")))
}

/// The [`listing`] of the schema that all steps create; a test compares it with them. Running the
/// steps takes a millisecond, and each command opens the ledger.
const EXPECTED_LISTING: &str = include_str!("snapshots/taptrail_ledger__schema__tests__made.snap.txt");

/// The objects as text, each with its type and name.
fn listing(objects: &Objects) -> String {
    let mut listing = String::new();
    for ((sort, name), sql) in objects {
        let sql = sql.as_deref().unwrap_or("made by SQLite");
        // Escaped: no name or statement can look like another object.
        let _ = writeln!(listing, "-- {sort:?} {name:?}\n{sql:?}");
    }
    listing
}

/// The objects that these steps create.
fn expected(steps: &[&str]) -> Result<Objects, rusqlite::Error> {
    let database = Connection::open_in_memory()?;
    steps.iter().try_for_each(|step| database.execute_batch(step))?;
    objects(&database)
}

/// Tables, indices, views and triggers, by type and name, with their SQL statements.
type Objects = BTreeMap<(String, String), Option<String>>;

/// Reads the objects of a database, at most 64, which is more than any ledger has.
fn objects(connection: &Connection) -> Result<Objects, rusqlite::Error> {
    // ANALYZE creates these tables, and only SQLite can write to them.
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
    fn the_expected_listing_is_that_of_the_steps() {
        insta::assert_binary_snapshot!("made.txt", listing(&expected(&STEPS).unwrap()).into_bytes());
    }
}
