//! The manual pages of the commands: as `--help` says, and without a fault that man(1) or mandoc(1)
//! finds. The pages that are made from documents are xtask's to test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A page as it is read, and the name of its file without `.1`.
struct Page {
    name: String,
    file: PathBuf,
    lines: Vec<String>,
}

/// All pages, on a terminal of 80 columns.
fn pages(directory: &Path) -> Vec<Page> {
    run(Command::new(env!("CARGO_BIN_EXE_taptrail")).args(["man", "--date", "2026-11-30"]).arg(directory));
    let entries = fs::read_dir(directory.join("man1")).unwrap().map(|entry| entry.unwrap().path());
    let page = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let lines = rendered(&file).lines().map(str::to_owned).collect();
        Page { name, file, lines }
    };
    entries.map(page).collect()
}

fn man(options: &[&str], file: &Path) -> Command {
    let mut man = Command::new("/usr/bin/man");
    man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").args(options).arg("-l").arg(file);
    man
}

fn rendered(file: &Path) -> String {
    run(&mut man(&["-P", "/bin/cat"], file))
}

/// Runs a command to its end, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn help(words: &[String]) -> String {
    run(Command::new(env!("CARGO_BIN_EXE_taptrail")).args(words).arg("--help"))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The commands that a help lists.
fn commands(help: &str, is_program: bool) -> Vec<String> {
    let mut listed = is_program;
    let mut commands = Vec::new();
    for line in help.lines() {
        if indent(line) == 0 && line.ends_with(':') {
            listed = line == "Commands:" || (is_program && line != "Exit codes:");
        } else if listed && indent(line) == 2 {
            commands.extend(line.split_whitespace().next().map(str::to_owned));
        }
    }
    commands.retain(|command| command != "help" && !command.starts_with('-'));
    commands
}

/// The help of each command, by the words that follow `taptrail`.
fn helps() -> Vec<(Vec<String>, String)> {
    let mut all = vec![(Vec::new(), help(&[]))];
    let mut at = 0;
    while at < all.len() {
        let (words, text) = all[at].clone();
        for command in commands(&text, words.is_empty()) {
            let words: Vec<String> = words.iter().cloned().chain([command]).collect();
            let text = help(&words);
            all.push((words, text));
        }
        at += 1;
    }
    all
}

/// The options in lines that are indented by at most this.
fn options<'a>(lines: impl Iterator<Item = &'a str>, most: usize) -> BTreeSet<String> {
    let tags = lines.filter(|line| indent(line) <= most && line.trim_start().starts_with('-'));
    let names = tags.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    names.map(|name| name.split(['=', '[', ',', '.']).next().unwrap().to_owned()).collect()
}

/// The lines of one section.
fn section<'a>(page: &'a Page, heading: &str) -> impl Iterator<Item = &'a str> {
    let lines = page.lines.iter().map(String::as_str);
    let lines = lines.skip_while(move |line| *line != heading).skip(1);
    lines.take_while(|line| line.is_empty() || indent(line) > 0)
}

/// Something stands below each of these lines, further in, or in it.
fn assert_filled(page: &str, lines: &[&str], begins: impl Fn(&str) -> bool) {
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty() && begins(line)) {
        let next = lines[at + 1..].iter().find(|line| !line.is_empty());
        // A short option has its text beside it, from the column of all texts on.
        let is_beside = line.len() > 14 && line.as_bytes()[13] == b' ' && line.as_bytes()[14] != b' ';
        assert!(
            is_beside || next.is_some_and(|next| indent(next) > indent(line)),
            "{page}: '{line}' is empty"
        );
    }
}

// Shows 9.10.
#[test]
fn each_command_has_a_page_with_the_options_of_its_help() {
    let directory = tempfile::tempdir().unwrap();
    let pages = pages(directory.path());
    let helps = helps();
    let names: BTreeSet<String> = pages.iter().map(|page| page.name.clone()).collect();
    let expected = helps.iter().map(|(words, _)| {
        ["taptrail".to_owned()].iter().chain(words).map(String::as_str).collect::<Vec<_>>().join("-")
    });
    let expected: BTreeSet<String> = expected.collect();
    assert_eq!(names, expected);
    assert!(names.contains("taptrail-lake-compact") && names.len() > 30, "{names:?}");
    for (words, help) in helps {
        let name =
            ["taptrail".to_owned()].iter().chain(&words).map(String::as_str).collect::<Vec<_>>().join("-");
        let page = pages.iter().find(|page| page.name == name).unwrap();
        let in_help = options(help.lines(), 6);
        let in_page = options(section(page, "OPTIONS"), 7);
        assert_eq!(in_page, in_help, "{name}");
        assert!(in_page.contains("--state-dir") && in_page.contains("--help"), "{name}: {in_page:?}");
    }
}

// Shows 9.10.
#[test]
fn no_section_and_no_entry_of_a_page_is_empty_and_no_line_is_too_long() {
    let directory = tempfile::tempdir().unwrap();
    for page in pages(directory.path()) {
        let Page { name, lines, .. } = &page;
        for wanted in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"]
        {
            assert!(lines.iter().any(|line| line == wanted), "{name} has no {wanted}");
        }
        // The first and the last line are the page's head and foot.
        let text: Vec<&str> = lines[1..lines.len() - 1].iter().map(String::as_str).collect();
        let options: Vec<&str> = section(&page, "OPTIONS").collect();
        let is_heading = |line: &str| indent(line) <= 3;
        let is_option = |line: &str| indent(line) == 7 && line.trim_start().starts_with('-');
        assert_filled(name, &text, is_heading);
        assert_filled(name, &options, |line| is_heading(line) || is_option(line));
        for line in text {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
        let about = lines.iter().skip_while(|line| *line != "NAME").nth(1).unwrap();
        assert!(about.contains(" - ") && !about.ends_with('-'), "{name}: {about}");
    }
}

// Shows 9.10.
#[test]
fn a_page_has_a_date() {
    let directory = tempfile::tempdir().unwrap();
    let man = || {
        let mut man = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        man.arg("man").arg(directory.path());
        man
    };
    let title = || {
        let page = fs::read_to_string(directory.path().join("man1/taptrail.1")).unwrap();
        page.lines().find(|line| line.starts_with(".TH")).unwrap().to_owned()
    };
    run(man().env("SOURCE_DATE_EPOCH", "86400"));
    assert!(title().contains("1970\\-01\\-02") || title().contains("1970-01-02"), "{}", title());
    run(man().env_remove("SOURCE_DATE_EPOCH"));
    let lint = ["-T", "lint"].map(str::to_owned);
    let lint =
        Command::new("/usr/bin/mandoc").args(lint).arg(directory.path().join("man1/taptrail.1")).output();
    assert_eq!(String::from_utf8_lossy(&lint.unwrap().stdout), "");
    for wrong in [man().args(["--date", "foo"]), man().env("SOURCE_DATE_EPOCH", "foo")] {
        let done = wrong.output().unwrap();
        assert!(!done.status.success() && !done.stderr.is_empty());
    }
}

// Shows 9.10.
#[test]
fn mandoc_and_groff_find_nothing_wrong_with_a_page() {
    let directory = tempfile::tempdir().unwrap();
    for Page { name, file, .. } in pages(directory.path()) {
        let lint = Command::new("/usr/bin/mandoc").args(["-T", "lint"]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&lint.stdout), "", "{name}");
        // As Debian's lintian asks: all of groff's warnings.
        let output = man(&["--warnings", "-E", "UTF-8", "-Tutf8", "-Z"], &file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        assert!(output.status.success() && !output.stdout.is_empty(), "{name}");
    }
}
