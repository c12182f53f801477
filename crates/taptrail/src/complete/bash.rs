//! bash's part. It replaces what stands behind the last of its break characters, such as the `:` of
//! a MAC, and inserts what it gets as it is: words are given without what stands before that
//! character, and quoted.

use std::ffi::OsString;

use super::Candidates;

/// Characters that need no quotes, beside letters and digits.
const PLAIN: &str = "_-./:=,@%+";

/// A line up to the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    /// Its words without quotes; the last one is at the cursor, and may be empty.
    words: Vec<String>,
    /// How many bytes of the last word bash leaves alone.
    kept: usize,
    /// The quote that is open at the cursor.
    quote: Option<char>,
}

impl Line {
    fn parse(line: &str, breaks: &str) -> Self {
        let mut parsed = Self { words: vec![String::new()], ..Self::default() };
        let mut escaped = false;
        for character in line.chars() {
            let Some(word) = parsed.words.last_mut() else { continue };
            match (parsed.quote, character) {
                _ if escaped => {
                    word.push(character);
                    escaped = false;
                }
                (None | Some('"'), '\\') => escaped = true,
                (Some(quote), _) if quote == character => parsed.quote = None,
                (Some(_), _) => word.push(character),
                (None, '\'' | '"') => {
                    parsed.quote = Some(character);
                    parsed.kept = word.len();
                }
                (None, ' ' | '\t') => {
                    if !word.is_empty() {
                        parsed.words.push(String::new());
                    }
                    parsed.kept = 0;
                }
                (None, _) => {
                    word.push(character);
                    if breaks.contains(character) {
                        parsed.kept = word.len();
                    }
                }
            }
        }
        parsed
    }

    /// A word as bash inserts it; None if no quoting makes it this word. Between double quotes, `!`
    /// is expanded by the history, and a backslash before it stays.
    fn quoted(&self, word: &str) -> Option<String> {
        let rest = word.get(self.kept..)?;
        let needs = |character: char| match self.quote {
            Some('"') => "\\\"$`".contains(character),
            Some(_) => false,
            None => character.is_ascii() && !character.is_ascii_alphanumeric() && !PLAIN.contains(character),
        };
        let unquotable = match self.quote {
            Some('\'') => '\'',
            _ => '!',
        };
        if self.quote.is_some() && rest.contains(unquotable) {
            return None;
        }
        let mut text = String::new();
        for character in rest.chars() {
            if needs(character) {
                text.push('\\');
            }
            text.push(character);
        }
        Some(text)
    }
}

/// The answer; bash shows no meanings.
pub(super) fn answer(line: &str, breaks: &str) -> String {
    let line = Line::parse(line, breaks);
    let words: Vec<OsString> = line.words.iter().map(OsString::from).collect();
    let candidates = Candidates::of(&words);
    let native = candidates.native.map(|native| format!("\t{}\n", native.as_str()));
    let words = candidates.words.iter().filter_map(|(word, _)| line.quoted(word));
    native.into_iter().chain(words.map(|word| format!("{word}\n"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKS: &str = " \t\n\"'><=;|&(:";

    fn parse(line: &str) -> Line {
        Line::parse(line, BREAKS)
    }

    #[test]
    fn the_last_word_is_at_the_cursor() {
        assert_eq!(parse("taptrail stop ").words, ["taptrail", "stop", ""]);
        assert_eq!(parse("taptrail  stop we").words, ["taptrail", "stop", "we"]);
        assert_eq!(
            parse(r"taptrail stop my\ gue").words,
            ["taptrail", "stop", "my guest".trim_end_matches("st")]
        );
        assert_eq!(parse("taptrail stop 'my gue").words, ["taptrail", "stop", "my gue"]);
        assert_eq!(parse("taptrail stop 'my guest' --ti").words, ["taptrail", "stop", "my guest", "--ti"]);
    }

    #[test]
    fn bash_gets_what_stands_behind_its_break_character() {
        let mac = parse("taptrail detach web1 52:54:0");
        assert_eq!(mac.quoted("52:54:00:12:34:56").unwrap(), "00:12:34:56");
        let spec = parse("taptrail attach web1 --nic=bridge=b");
        assert_eq!(spec.quoted("--nic=bridge=br0").unwrap(), "br0");
        let quoted = parse("taptrail detach web1 '52:54:0");
        assert_eq!(quoted.quoted("52:54:00:12:34:56").unwrap(), "52:54:00:12:34:56");
    }

    #[test]
    fn a_name_never_becomes_a_command() {
        let evil = "$(reboot); `halt` 'a\"";
        assert_eq!(parse("taptrail stop ").quoted(evil).unwrap(), r#"\$\(reboot\)\;\ \`halt\`\ \'a\""#);
        assert_eq!(parse("taptrail stop \"").quoted(evil).unwrap(), r#"\$(reboot); \`halt\` 'a\""#);
        assert_eq!(parse("taptrail stop '").quoted(evil), None);
        assert_eq!(parse("taptrail stop '").quoted("$(reboot)").unwrap(), "$(reboot)");
        assert_eq!(parse("taptrail stop ").quoted("web!reboot").unwrap(), r"web\!reboot");
        assert_eq!(parse("taptrail stop '").quoted("web!reboot").unwrap(), "web!reboot");
        assert_eq!(parse("taptrail stop \"").quoted("web!reboot"), None);
        assert_eq!(parse("taptrail stop \"web\"").quoted("web!reboot").unwrap(), r"web\!reboot");
    }
}
