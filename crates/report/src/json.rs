use serde::Serialize;

/// A trail's [`Report`](taptrail_trail::Report), or rows of guests or interfaces, as indented JSON with
/// a newline at its end.
///
/// # Errors
///
/// None for the types of this room and [`taptrail_trail`].
pub fn json(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}
