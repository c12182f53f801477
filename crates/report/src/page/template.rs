//! The sentences about a holding, with blanks for its times: thousands of holdings share a few
//! texts, and a page has each of them once.

use std::cell::RefCell;

use compact_str::{CompactString, ToCompactString as _};
use jiff::Timestamp;
use taptrail_trail::Holding;

use crate::explain::sentences;
use crate::style::{Clock, TimeFormat};
use crate::text::NONE;

/// Sentences, one a line. Each `{f}` stands for a date and time, `{t}` for a time of day, `{p}` for
/// a process id; their values follow in order.
pub(super) fn template(holding: &Holding, clock: &TimeFormat) -> (String, Vec<i64>) {
    let blanks = Blanks { clock, values: RefCell::default() };
    let text = sentences::describe(holding, &blanks).join("\n");
    (text, blanks.values.into_inner())
}

struct Blanks<'a> {
    clock: &'a TimeFormat,
    values: RefCell<Vec<i64>>,
}

impl Clock for Blanks<'_> {
    fn full(&self, time: Timestamp) -> CompactString {
        self.values.borrow_mut().push(time.as_millisecond());
        "{f}".into()
    }

    fn after(&self, since: Option<Timestamp>, time: Option<Timestamp>) -> CompactString {
        let Some(time) = time else { return NONE.into() };
        if since.is_some_and(|since| self.clock.is_one_day(since, time)) {
            self.values.borrow_mut().push(time.as_millisecond());
            return "{t}".into();
        }
        self.full(time)
    }

    fn pid(&self, pid: u32) -> CompactString {
        self.values.borrow_mut().push(pid.into());
        "{p}".to_compact_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Style;
    use crate::sample::holding;

    #[test]
    fn filled_in_the_blanks_give_the_sentences_of_explain() {
        let clock = TimeFormat::new(&Style { utc: true, ..Style::default() });
        for released in [None, Some(30), Some(100_000)] {
            let holding = holding("web1", 1, 10, released);
            let (text, values) = template(&holding, &clock);
            let mut filled = String::new();
            let mut values = values.into_iter();
            let mut rest = text.as_str();
            while let Some(at) = rest.find('{') {
                filled.push_str(&rest[..at]);
                let value = values.next().unwrap();
                let full = clock.full(Timestamp::from_millisecond(value).unwrap());
                match &rest[at..at + 3] {
                    "{f}" => filled.push_str(&full),
                    "{t}" => filled.push_str(&full[11..]),
                    _ => filled.push_str(&value.to_string()),
                }
                rest = &rest[at + 3..];
            }
            filled.push_str(rest);
            assert_eq!(filled, sentences::describe(&holding, &clock).join("\n"));
            assert_eq!(values.next(), None);
        }
    }
}
