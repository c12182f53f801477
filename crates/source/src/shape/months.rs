//! Short names of months in many languages.

/// The short names of months in the locales of C libraries (`abmon`), in lower case and without a
/// final dot. Each name belongs to one month: names that would be ambiguous between languages are
/// left out.
const MONTHS: [&[&str]; 12] = [
    &[
        "jan",
        "janv",
        "jän",
        "ene",
        "gen",
        "ian",
        "tammi",
        "sty",
        "led",
        "oca",
        "янв",
        "січ",
        "яну",
        "jaan",
        "يناير",
    ],
    &["feb", "febr", "févr", "fev", "helmi", "lut", "úno", "şub", "фев", "лют", "veebr", "فبراير"],
    &[
        "mar", "mär", "mrz", "märz", "mars", "març", "mrt", "maalis", "bře", "márc", "мар", "бер", "märts",
        "مارس",
    ],
    &["apr", "avr", "avril", "abr", "ápr", "april", "huhti", "kwi", "dub", "nis", "апр", "кві", "أبريل"],
    &["may", "mai", "maj", "mei", "mag", "maig", "máj", "touko", "kvě", "май", "мая", "тра", "مايو"],
    &[
        "jun",
        "juin",
        "juni",
        "juny",
        "giu",
        "iun",
        "jún",
        "kesä",
        "cze",
        "čen",
        "haz",
        "июн",
        "чер",
        "юни",
        "juuni",
        "يونيو",
    ],
    &[
        "jul",
        "juil",
        "juli",
        "lug",
        "iul",
        "júl",
        "heinä",
        "čec",
        "tem",
        "июл",
        "лип",
        "юли",
        "juuli",
        "يوليو",
    ],
    &["aug", "août", "ago", "ag", "avg", "elo", "sie", "srp", "ağu", "авг", "сер", "أغسطس"],
    &["sep", "sept", "set", "syys", "wrz", "zář", "szept", "eyl", "сен", "вер", "سبتمبر"],
    &["oct", "okt", "ott", "out", "loka", "paź", "říj", "eki", "окт", "жов", "أكتوبر"],
    &["nov", "marras", "kas", "ноя", "лис", "нов", "нояб", "نوفمبر"],
    &["dec", "dez", "dic", "déc", "des", "joulu", "gru", "pro", "ara", "дек", "гру", "dets", "ديسمبر"],
];

/// The month with this name, from 1, in any of these languages and any case, with or without a
/// final dot.
pub(super) fn month(name: &[u8]) -> Option<i8> {
    // No name is longer.
    if !matches!(name.len(), 2..=16) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    (1i8..).zip(MONTHS).find_map(|(month, names)| names.contains(&name).then_some(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_month() {
        let all: Vec<_> = MONTHS.iter().flat_map(|names| names.iter()).collect();
        for name in &all {
            assert_eq!(all.iter().filter(|other| other == &name).count(), 1, "{name}");
            assert_eq!(name.to_lowercase(), **name);
        }
    }

    #[test]
    fn capitals_and_dots_make_no_difference() {
        for (name, known) in [
            ("Jan", Some(1)),
            ("févr.", Some(2)),
            ("Mär", Some(3)),
            ("MAI", Some(5)),
            ("июн", Some(6)),
            ("sept.", Some(9)),
            ("Dez", Some(12)),
            ("Ağu", Some(8)),
            ("", None),
            (".", None),
            ("x", None),
            ("janua", None),
            ("jan..", None),
        ] {
            assert_eq!(month(name.as_bytes()), known, "{name}");
        }
        assert_eq!(month(b"\xff\xfe"), None);
    }
}
