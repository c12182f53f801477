//! Bars and marks, as in the page and in the legend.

use taptrail_trail::Certainty;

use super::element::Svg;
use super::{BAR, GRAVE, TEXT};

const NOTICE: &str = "#8a5a00";

pub(super) const CERTAINTIES: [Certainty; 5] = [
    Certainty::Definitive,
    Certainty::Inferred,
    Certainty::Ambiguous,
    Certainty::Doubtful,
    Certainty::Incomplete,
];

pub(super) fn color(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Definitive => "#0d6e66",
        Certainty::Inferred => "#2563ac",
        Certainty::Ambiguous => "#7a3fa8",
        Certainty::Doubtful => "#b3261e",
        Certainty::Incomplete => "#97620c",
    }
}

pub(super) fn certain(svg: &mut Svg, x: f64, until: f64, top: f64, certainty: Certainty) {
    let size = ((until - x).max(1.5), BAR);
    svg.rect((x, top), size, &format!("fill=\"{}\"", color(certainty)));
    if certainty != Certainty::Definitive && size.0 > 2.0 {
        svg.rect((x, top), size, &format!("fill=\"url(#taptrail-{})\"", certainty.as_str()));
    }
}

pub(super) fn opening(svg: &mut Svg, x: f64, until: f64, top: f64, certainty: Certainty) {
    let size = ((until - x).max(1.0), BAR);
    let (color, word) = (color(certainty), certainty.as_str());
    let look = if size.0 > 3.0 {
        format!("fill=\"url(#taptrail-open-{word})\" stroke=\"{color}\"")
    } else {
        format!("fill=\"{color}\"")
    };
    svg.rect((x, top), size, &look);
}

pub(super) fn possibly(svg: &mut Svg, x: f64, until: f64, y: f64, certainty: Certainty) {
    let color = color(certainty);
    let look = format!("fill=\"{color}\" fill-opacity=\"0.16\" stroke=\"{color}\" stroke-dasharray=\"3 2\"");
    svg.rect((x, y - 3.0), ((until - x).max(1.0), 6.0), &look);
}

pub(super) fn held(svg: &mut Svg, x: f64, y: f64) {
    let points = [(x - 8.0, y - 4.0), (x - 3.0, y), (x - 8.0, y + 4.0)];
    svg.line(&points, "fill=\"none\" stroke=\"#fff\" stroke-width=\"2\"");
}

pub(super) fn ended(svg: &mut Svg, x: f64, y: f64, by: &str) {
    let dark = format!("fill=\"{TEXT}\"");
    let hollow = format!("fill=\"none\" stroke=\"{TEXT}\" stroke-width=\"1.5\"");
    match by {
        "detach" => svg.polygon(&[(x + 2.0, y), (x + 8.0, y - 4.5), (x + 8.0, y + 4.5)], &dark),
        "stop" => svg.rect((x + 2.0, y - 3.5), (7.0, 7.0), &dark),
        "close" => {
            svg.rect((x + 2.0, y - 5.0), (2.0, 10.0), &dark);
            svg.rect((x + 6.0, y - 5.0), (2.0, 10.0), &dark);
        }
        "revoke" => {
            svg.circle((x + 6.5, y), 4.0, &hollow);
            svg.line(&[(x + 3.7, y + 2.8), (x + 9.3, y - 2.8)], &hollow);
        }
        _ => svg.rect((x + 2.8, y - 3.2), (6.5, 6.5), &hollow),
    }
}

pub(super) fn cross(svg: &mut Svg, x: f64, y: f64) {
    let look = format!("stroke=\"{GRAVE}\" stroke-width=\"2\"");
    svg.line(&[(x - 3.5, y - 3.5), (x + 3.5, y + 3.5)], &look);
    svg.line(&[(x + 3.5, y - 3.5), (x - 3.5, y + 3.5)], &look);
}

pub(super) fn finding(svg: &mut Svg, x: f64, y: f64, grave: bool) {
    if grave {
        let points = [(x, y - 6.0), (x + 6.0, y), (x, y + 6.0), (x - 6.0, y)];
        svg.polygon(&points, &format!("fill=\"{GRAVE}\" stroke=\"#fff\""));
        svg.rect((x - 0.8, y - 3.2), (1.6, 4.0), "fill=\"#fff\"");
        svg.rect((x - 0.8, y + 1.7), (1.6, 1.6), "fill=\"#fff\"");
    } else {
        let points = [(x, y - 5.0), (x + 5.2, y + 4.0), (x - 5.2, y + 4.0)];
        svg.polygon(&points, &format!("fill=\"#fff\" stroke=\"{NOTICE}\" stroke-width=\"1.6\""));
    }
}

pub(super) fn boot(svg: &mut Svg, x: f64, top: f64, bottom: f64) {
    let look = "stroke=\"#6d28a8\" stroke-width=\"1.5\" stroke-dasharray=\"5 2 1 2\"";
    svg.line(&[(x, top), (x, bottom)], look);
}

/// What the patterns and marks mean.
pub(super) fn legend(svg: &mut Svg, top: f64) {
    type Draw = fn(&mut Svg, f64, f64);
    let items: [(&str, Draw); 18] = [
        ("open to grant", |svg, x, y| opening(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Inferred)),
        ("held: definitive", |svg, x, y| certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Definitive)),
        ("held: inferred", |svg, x, y| certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Inferred)),
        ("held: ambiguous", |svg, x, y| certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Ambiguous)),
        ("held: incomplete", |svg, x, y| certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Incomplete)),
        ("held: doubtful", |svg, x, y| certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Doubtful)),
        ("possibly held", |svg, x, y| possibly(svg, x, x + 28.0, y, Certainty::Incomplete)),
        ("still held", |svg, x, y| {
            certain(svg, x, x + 28.0, y - BAR / 2.0, Certainty::Inferred);
            held(svg, x + 28.0, y);
        }),
        ("unplugged", |svg, x, y| ended(svg, x + 9.0, y, "detach")),
        ("guest ended", |svg, x, y| ended(svg, x + 9.0, y, "stop")),
        ("closed", |svg, x, y| ended(svg, x + 9.0, y, "close")),
        ("revoked", |svg, x, y| ended(svg, x + 9.0, y, "revoke")),
        ("end not seen", |svg, x, y| ended(svg, x + 9.0, y, "")),
        ("failed open", |svg, x, y| cross(svg, x + 14.0, y)),
        ("grave finding", |svg, x, y| finding(svg, x + 14.0, y, true)),
        ("other finding", |svg, x, y| finding(svg, x + 14.0, y, false)),
        ("gap in the log", |svg, x, y| {
            svg.rect((x + 5.0, y - 8.0), (18.0, 16.0), "fill=\"url(#taptrail-gap)\"")
        }),
        ("boot, or begin of watching", |svg, x, y| boot(svg, x + 14.0, y - 8.0, y + 8.0)),
    ];
    let (mut x, mut y) = (20.0, top);
    for (at, (text, draw)) in items.iter().enumerate() {
        if at > 0 && at % 7 == 0 {
            (x, y) = (20.0, y + 22.0);
        }
        draw(svg, x, y);
        svg.text(x + 36.0, y + 4.0, text, &format!("fill=\"{TEXT}\""));
        x += 155.0;
    }
}
