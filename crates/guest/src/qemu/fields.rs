//! An option's value: `tap,id=n0,ifname=vnet5`, `type=tap,…` or JSON.

use serde_json::Value;

/// A value's fields in their order. QEMU lets the last of several with one name win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads a value as QEMU does: JSON when it begins with `{`, else `name=value,…` with commas in
    /// values doubled, where the first may leave out its name, `implied` (`get_opt_name_value()`,
    /// QEMU's util/qemu-option.c).
    ///
    /// # Errors
    /// Only for JSON. QEMU's own reader takes a little more than JSON, such as single quotes.
    pub(super) fn parse(text: &str, implied: &str) -> Result<Self, serde_json::Error> {
        if text.starts_with('{') { Self::parse_json(text) } else { Ok(Self::parse_pairs(text, implied)) }
    }

    fn parse_json(text: &str) -> Result<Self, serde_json::Error> {
        let object: serde_json::Map<String, Value> = serde_json::from_str(text)?;
        let word = |value: Value| match value {
            Value::String(text) => text,
            Value::Bool(true) => "on".to_owned(),
            Value::Bool(false) => "off".to_owned(),
            other => other.to_string(),
        };
        Ok(Self(object.into_iter().map(|(name, value)| (name, word(value))).collect()))
    }

    fn parse_pairs(mut text: &str, implied: &str) -> Self {
        let mut pairs = Vec::new();
        while !text.is_empty() {
            let end = text.find(['=', ',']).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if let Some(rest) = rest.strip_prefix('=') {
                let (value, rest) = value(rest);
                pairs.push((name.to_owned(), value));
                text = rest;
            } else if pairs.is_empty() {
                let (value, rest) = value(text);
                pairs.push((implied.to_owned(), value));
                text = rest;
            } else {
                // A bare name is a switch, and `no` before it turns it off.
                let (name, state) = name.strip_prefix("no").map_or((name, "on"), |name| (name, "off"));
                pairs.push((name.to_owned(), state.to_owned()));
                text = rest.strip_prefix(',').unwrap_or_default();
            }
        }
        Self(pairs)
    }

    /// Adds a field behind the others.
    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The value that wins.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Every value of a name.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// A value up to the next single comma, and what follows that.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(',') {
        value.push_str(before);
        let Some(after_both) = after.strip_prefix(',') else {
            return (value, after);
        };
        value.push(',');
        rest = after_both;
    }
    value.push_str(rest);
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Fields::parse(text, "type").unwrap().0
    }

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_value_is_taken_apart_as_qemu_does() {
        for (text, expected) in [
            ("", own(&[])),
            ("tap", own(&[("type", "tap")])),
            (
                "tap,id=n0,ifname=v,script=no",
                own(&[("type", "tap"), ("id", "n0"), ("ifname", "v"), ("script", "no")]),
            ),
            ("id=n0,type=tap", own(&[("id", "n0"), ("type", "tap")])),
            ("a,,b,x=1,,2,y=", own(&[("type", "a,b"), ("x", "1,2"), ("y", "")])),
            (
                "user,vhost,nowait,id=n0",
                own(&[("type", "user"), ("vhost", "on"), ("wait", "off"), ("id", "n0")]),
            ),
            ("x=a=b", own(&[("x", "a=b")])),
            ("tap,", own(&[("type", "tap")])),
        ] {
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn the_last_of_a_name_wins_and_all_are_returned() {
        let fields = Fields::parse("type=tap,id=n0,type=user", "type").unwrap();
        assert_eq!(fields.get("type"), Some("user"));
        assert_eq!(fields.all("type").collect::<Vec<_>>(), ["tap", "user"]);
        assert_eq!(fields.get("mac"), None);
    }

    #[test]
    fn json_is_read_where_qemu_reads_it() {
        let fields =
            Fields::parse(r#"{"type": "tap", "id": "n0", "vhost": true, "queues": 4}"#, "type").unwrap();
        assert_eq!(fields.0, own(&[("type", "tap"), ("id", "n0"), ("vhost", "on"), ("queues", "4")]));
        assert!(Fields::parse("{'type': 'tap'}", "type").is_err());
        assert_eq!(Fields::parse(" {}", "type").unwrap().get("type"), Some(" {}"));
    }
}
