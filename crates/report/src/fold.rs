use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Cuts one line into lines of at most `width` columns, between words where that is possible.
pub fn fold(line: &str, width: usize) -> Vec<&str> {
    fold_after(line, width, &[])
}

/// The same for a name, which is cut after a hyphen, underscore or point where it has no blank.
pub(crate) fn fold_name(line: &str, width: usize) -> Vec<&str> {
    fold_after(line, width, &['-', '_', '.'])
}

/// As [`fold`], also after these characters.
fn fold_after<'a>(line: &'a str, width: usize, marks: &[char]) -> Vec<&'a str> {
    let mut lines = Vec::new();
    let mut rest = line;
    loop {
        let (mut taken, mut end, mut blank, mut mark) = (0, rest.len(), None, None);
        for (at, c) in rest.char_indices() {
            taken += c.width().unwrap_or_default();
            if taken > width && at > 0 {
                end = at;
                break;
            }
            if c == ' ' && at > 0 {
                blank = Some(at);
            }
            if marks.contains(&c) {
                mark = Some(at + c.len_utf8());
            }
        }
        if end == rest.len() {
            lines.push(rest);
            return lines;
        }
        // The blank that would begin the next line ends this one as well.
        let cut = if rest[end..].starts_with(' ') { end } else { blank.or(mark).unwrap_or(end) };
        lines.push(&rest[..cut]);
        rest = rest[cut..].trim_start_matches(' ');
        if rest.is_empty() {
            return lines;
        }
    }
}

/// Joins pieces by blanks into lines of at most `width` columns. No piece is cut: one that is wider
/// stands alone on its line.
pub(crate) fn fold_pieces<'a>(pieces: impl IntoIterator<Item = &'a str>, width: usize) -> Vec<String> {
    let (mut lines, mut taken): (Vec<String>, usize) = (Vec::new(), 0);
    for piece in pieces {
        let columns = piece.width();
        match lines.last_mut().filter(|_| taken + 1 + columns <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(piece);
                taken += 1 + columns;
            }
            None => {
                lines.push(piece.to_owned());
                taken = columns;
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_cut() {
        let fold = |pieces: &[&'static str], width| fold_pieces(pieces.iter().copied(), width);
        assert_eq!(fold(&[], 5), [""; 0]);
        assert_eq!(fold(&["one", "two", "three"], 7), ["one two", "three"]);
        assert_eq!(fold(&["a", "/dev/net/tun", "b"], 5), ["a", "/dev/net/tun", "b"]);
        assert_eq!(fold(&["at", "10:00 11:00", "名"], 14), ["at 10:00 11:00", "名"]);
        assert_eq!(fold(&["one", "two"], usize::MAX), ["one two"]);
        assert_eq!(fold(&["one", "two"], 0), ["one", "two"]);
    }

    #[test]
    fn lines_are_cut_between_words_where_there_are_any() {
        assert_eq!(fold("", 5), [""]);
        assert_eq!(fold("one two", 7), ["one two"]);
        assert_eq!(fold("one two three", 7), ["one two", "three"]);
        assert_eq!(fold("one two three", 8), ["one two", "three"]);
        assert_eq!(fold("/dev/net/tun", 5), ["/dev/", "net/t", "un"]);
        assert_eq!(fold("a /dev/net/tun", 5), ["a", "/dev/", "net/t", "un"]);
        assert_eq!(fold("名名名", 4), ["名名", "名"]);
        assert_eq!(fold("名", 1), ["名"]);
        assert_eq!(fold("ab   ", 2), ["ab"]);
    }

    #[test]
    fn a_name_is_cut_after_a_hyphen_where_it_has_no_blank() {
        assert_eq!(fold_name("web-server-12", 10), ["web-", "server-12"]);
        assert_eq!(fold_name("web-server-12", 11), ["web-server-", "12"]);
        assert_eq!(fold_name("my web-server", 8), ["my", "web-", "server"]);
        assert_eq!(fold_name("web_1.example", 8), ["web_1.", "example"]);
        assert_eq!(fold_name("onelongname", 4), ["onel", "ongn", "ame"]);
        assert_eq!(fold_name("---", 2), ["--", "-"]);
    }
}
