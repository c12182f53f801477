//! What is not derived of the form in which archives store an entry's
//! [`Content`](crate::Content): a variant without fields of its own is an object, too, so that fields
//! may be added to it.

/// `{}`
pub(super) mod no_fields {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct NoFields {}

    pub(in crate::model) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
        NoFields {}.serialize(to)
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        NoFields::deserialize(from).map(|NoFields {}| ())
    }
}

/// `{"why": …}`
pub(super) mod why {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::GapReason;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        why: GapReason,
    }

    pub(in crate::model) fn serialize<S: Serializer>(why: &GapReason, to: S) -> Result<S::Ok, S::Error> {
        Fields { why: *why }.serialize(to)
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<GapReason, D::Error> {
        Fields::deserialize(from).map(|fields| fields.why)
    }
}

#[cfg(test)]
mod tests;
