//! Elements of SVG as text. Every text is escaped here, and nowhere else.

use std::fmt::Write as _;

/// Elements, one a line.
#[derive(Debug, Default)]
pub(super) struct Svg(String);

/// The patterns that the bars' certainty and other fills have. Their names are the figure's own: a
/// document may have several figures in its text.
const HEAD: &str = "<defs>
<pattern id=\"taptrail-inferred\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\"><rect y=\"1.5\" width=\"4\" height=\"1\" fill=\"#fff\" fill-opacity=\"0.5\"/></pattern>
<pattern id=\"taptrail-ambiguous\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\"><path d=\"M0 6L6 0M0 0L6 6\" stroke=\"#fff\" stroke-opacity=\"0.75\" stroke-width=\"1.2\"/></pattern>
<pattern id=\"taptrail-incomplete\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\"><rect x=\"5\" width=\"2\" height=\"7\" fill=\"#fff\" fill-opacity=\"0.85\"/></pattern>
<pattern id=\"taptrail-doubtful\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\"><path d=\"M0 0H3V6H6V3H0Z\" fill=\"#fff\" fill-opacity=\"0.75\"/></pattern>
<pattern id=\"taptrail-gap\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><rect width=\"8\" height=\"8\" fill=\"#f3e3c3\"/><path d=\"M-1 9L9 -1M-1 1L1 -1M7 9L9 7\" stroke=\"#55617a\" stroke-opacity=\"0.35\"/></pattern>
</defs>
";

const FONT: &str = "font-family=\"system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif\" font-size=\"12\"";

impl Svg {
    /// The root, its title and description for those who don't see it, and the white ground.
    pub(super) fn open(&mut self, width: f64, height: f64, title: &str, about: &str) {
        let size = format!("width=\"{}\" height=\"{}\"", number(width), number(height));
        let view = format!("viewBox=\"0 0 {} {}\"", number(width), number(height));
        // Writing to a String can't fail.
        let _ = writeln!(
            self.0,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" {size} {view} {FONT} role=\"img\" \
             aria-labelledby=\"taptrail-title taptrail-about\">\n<title id=\"taptrail-title\">{}</title>\n<desc id=\"taptrail-about\">{}</desc>",
            escaped(title),
            escaped(about)
        );
        self.0.push_str(HEAD);
        self.rect((0.0, 0.0), (width, height), "fill=\"#fff\"");
    }

    /// A pattern of diagonal lines.
    pub(super) fn hatching(&mut self, id: &str, color: &str) {
        let _ = writeln!(
            self.0,
            "<pattern id=\"taptrail-{id}\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\"><path \
             d=\"M-1 6L6 -1M-1 1L1 -1M4 6L6 4\" stroke=\"{color}\" stroke-width=\"1.3\"/></pattern>"
        );
    }

    pub(super) fn close(&mut self) {
        self.0.push_str("</svg>\n");
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.push_str(&other.0);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// A text that begins at `x`. `look` are attributes of ours.
    pub(super) fn text(&mut self, x: f64, y: f64, text: &str, look: &str) {
        let _ =
            writeln!(self.0, "<text x=\"{}\" y=\"{}\" {look}>{}</text>", number(x), number(y), escaped(text));
    }

    /// A text that ends at `x`.
    pub(super) fn end_text(&mut self, x: f64, y: f64, text: &str, look: &str) {
        self.text(x, y, text, &format!("text-anchor=\"end\" {look}"));
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), look: &str) {
        let place = format!("x=\"{}\" y=\"{}\"", number(x), number(y));
        let size = format!("width=\"{}\" height=\"{}\"", number(width), number(height));
        let _ = writeln!(self.0, "<rect {place} {size} {look}/>");
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, look: &str) {
        let _ = writeln!(
            self.0,
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {look}/>",
            number(x),
            number(y),
            number(radius)
        );
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], look: &str) {
        let _ = writeln!(self.0, "<path d=\"{}\" {look}/>", path(points));
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], look: &str) {
        let _ = writeln!(self.0, "<path d=\"{}Z\" {look}/>", path(points));
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        let _ = write!(text, "{command}{} {}", number(*x), number(*y));
    }
    text
}

/// A tenth of a pixel is exact enough.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            c if taptrail_record::is_visible(c) => safe.push(c),
            c => safe.extend(c.escape_default()),
        }
    }
    safe
}
