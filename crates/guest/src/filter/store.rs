//! The filters that there are: taptrail's own, and the user's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::choice::FilterChoice;
use super::compile::MAX_FILTERS;
use super::definition::Definition;
use super::error::FilterProblem;
use super::text::{self, FilterTextError};
use crate::file::ReadError;

/// Where the user's filters are, each in a file of its name.
pub const FILTERS_DIR: &str = "/etc/taptrail/filters";
/// How the names of such files end.
const ENDINGS: [&str; 2] = ["xml", "toml"];

/// The user's filters can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FilterLoadError {
    /// A file can't be read or trusted.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file's text is refused.
    #[error(transparent)]
    Text(#[from] FilterTextError),
    /// The filters don't hold together.
    #[error(transparent)]
    Filter(#[from] FilterProblem),
}

/// Filters by name.
#[derive(Debug, Clone, Default)]
pub struct Store {
    definitions: Cow<'static, [Definition]>,
    /// The filters that files are named for, by path.
    by_path: BTreeMap<String, String>,
}

impl Store {
    /// taptrail's own filters: libvirt's under their names, and those for IPv6.
    pub fn shipped() -> Self {
        static SHIPPED: OnceLock<Vec<Definition>> = OnceLock::new();
        // A test reads the text.
        let shipped = SHIPPED.get_or_init(|| {
            text::read("shipped.toml", include_str!("shipped.toml"), |_| false).unwrap_or_default()
        });
        Self { definitions: Cow::Borrowed(shipped), by_path: BTreeMap::new() }
    }

    /// taptrail's own filters, and the user's that an interface refers to: from the files that it
    /// names, and from [`FILTERS_DIR`].
    ///
    /// # Errors
    /// A file can't be read or trusted, or its text is refused.
    pub fn load(choice: &FilterChoice) -> Result<Self, FilterLoadError> {
        let mut store = Self::shipped();
        let mut left: Vec<(String, PathBuf)> = Vec::new();
        for filter in choice.filters() {
            let path = Path::new(filter);
            if path.is_absolute() {
                let found = store.read(path)?;
                store.by_path.extend(found.first().map(|name| (filter.clone(), name.clone())));
                let directory = path.parent().unwrap_or(Path::new("/"));
                left.extend(found.into_iter().map(|name| (name, directory.to_owned())));
            } else {
                left.push((filter.clone(), PathBuf::from(FILTERS_DIR)));
            }
        }
        let mut known: Vec<String> = Vec::new();
        while let Some((name, directory)) = left.pop() {
            if known.contains(&name) {
                continue;
            }
            if store.find(&name).is_none() {
                let file = |ending| directory.join(format!("{name}.{ending}"));
                match ENDINGS.map(file).into_iter().find(|path| path.exists()) {
                    Some(path) => store.read(&path).map(drop)?,
                    // The compiler says by which filter it is wanted.
                    None => continue,
                }
            }
            let references = store.find(&name).into_iter().flat_map(|found| &found.references);
            left.extend(references.map(|reference| (reference.filter.clone(), directory.clone())));
            known.push(name);
            if known.len() > MAX_FILTERS {
                return Err(FilterProblem::TooManyFilters { limit: MAX_FILTERS }.into());
            }
        }
        Ok(store)
    }

    /// Adds a file's filters; returns their names.
    fn read(&mut self, path: &Path) -> Result<Vec<String>, FilterLoadError> {
        let text = crate::file::read(path)?;
        Ok(self.add(&path.display().to_string(), &text)?)
    }

    /// Adds the filters in a text, XML or TOML; `file` is its name in messages. Returns their
    /// names.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn add(&mut self, file: &str, text: &str) -> Result<Vec<String>, FilterTextError> {
        let definitions = text::read(file, text, |name| self.find(name).is_some())?;
        let names = definitions.iter().map(|definition| definition.name.clone()).collect();
        self.definitions.to_mut().extend(definitions);
        Ok(names)
    }

    /// The names, in the order of the texts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.iter().map(|definition| definition.name.as_str())
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Definition> {
        let name = self.by_path.get(name).map_or(name, String::as_str);
        self.definitions.iter().find(|definition| definition.name == name)
    }
}
