//! A sheet of SVG to draw on in pixels, and the marks by which policies are told apart.

use plotters::{
    coord::Shift,
    element::{Circle, Drawable, PathElement, Polygon, Rectangle, Text},
    prelude::{DrawingArea, IntoDrawingArea, RGBColor, SVGBackend, WHITE},
    style::{
        Color, FontFamily, FontStyle, IntoFont, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// A plot could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw: {0}")]
pub struct PlotError(pub(super) String);

/// Ink for text and frames.
pub(super) const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
/// For what is there but should not be looked at.
pub(super) const FAINT: RGBColor = RGBColor(0xd8, 0xdd, 0xe2);
/// For what explains.
pub(super) const QUIET: RGBColor = RGBColor(0x6a, 0x73, 0x7d);

/// The first is for the policy that a plot is about. Okabe and Ito's palette (2008), which colour-blind people tell apart; their
/// yellow is darkened for white ground.
const COLORS: [RGBColor; 8] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x3d, 0x3d, 0x3d),
    RGBColor(0xa8, 0x9a, 0x00),
];

/// Which side of the point a text is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Right,
    Left,
    Middle,
}

/// Colour of the policy with this number.
pub(super) fn color(policy: usize) -> RGBColor {
    COLORS[policy % COLORS.len()]
}

/// A sheet. Texts are centred on their y.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    /// A white sheet of this size that is written to `svg`.
    pub fn new(svg: &'a mut String, size: (u32, u32)) -> Result<Self, PlotError> {
        let area = SVGBackend::with_string(svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(problem)?;
        Ok(Self { area })
    }

    /// Ends the document.
    pub fn finish(self) -> Result<(), PlotError> {
        self.area.present().map_err(problem)
    }

    pub fn text(
        &self,
        (x, y): (f64, f64),
        side: Side,
        pixels: f64,
        color: RGBColor,
        bold: bool,
        text: &str,
    ) -> Result<(), PlotError> {
        let horizontal = match side {
            Side::Right => HPos::Left,
            Side::Left => HPos::Right,
            Side::Middle => HPos::Center,
        };
        let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
        // The backend divides sizes by 1.24.
        let font = (FontFamily::SansSerif, pixels * 1.24, weight).into_font();
        let style = TextStyle::from(font).color(&color).pos(Pos::new(horizontal, VPos::Center));
        self.draw(&Text::new(text.to_owned(), round((x, y)), style))
    }

    pub fn line(&self, points: &[(f64, f64)], color: RGBColor, width: u32, opacity: f64) -> Result<(), PlotError> {
        let style = ShapeStyle { color: color.mix(opacity), filled: false, stroke_width: width };
        self.draw(&PathElement::new(points.iter().copied().map(round).collect::<Vec<_>>(), style))
    }

    pub fn rectangle(&self, from: (f64, f64), to: (f64, f64), color: RGBColor, opacity: f64) -> Result<(), PlotError> {
        let style = ShapeStyle { color: color.mix(opacity), filled: true, stroke_width: 0 };
        self.draw(&Rectangle::new([round(from), round(to)], style))
    }

    /// The mark of a policy: colours come again after eight policies, then as squares and as diamonds.
    pub fn mark(&self, (x, y): (f64, f64), policy: usize) -> Result<(), PlotError> {
        let style = color(policy).filled();
        match policy / COLORS.len() % 3 {
            0 => self.draw(&Circle::new(round((x, y)), 4, style)),
            1 => self.rectangle((x - 3.5, y - 3.5), (x + 3.5, y + 3.5), color(policy), 1.0),
            _ => {
                let corners = [(x - 5.0, y), (x, y - 5.0), (x + 5.0, y), (x, y + 5.0)];
                self.draw(&Polygon::new(corners.map(round).to_vec(), style))
            }
        }
    }

    fn draw<E>(&self, element: &E) -> Result<(), PlotError>
    where
        for<'b> &'b E: plotters::element::PointCollection<'b, (i32, i32)>,
        E: Drawable<SVGBackend<'a>>,
    {
        self.area.draw(element).map_err(problem)
    }
}

fn round((x, y): (f64, f64)) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

fn problem(error: impl std::fmt::Display) -> PlotError {
    PlotError(error.to_string())
}

/// A logarithmic axis from pixels to pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LogAxis {
    from: f64,
    to: f64,
    pixels: (f64, f64),
}

impl LogAxis {
    /// For values from `from` to `to`, both above 0, with some room on both sides.
    pub fn new(from: f64, to: f64, pixels: (f64, f64)) -> Self {
        let from = from.max(1e-6);
        let to = to.max(from * 1.2);
        let room = (to / from).powf(0.03);
        Self { from: from / room, to: to * room, pixels }
    }

    /// Where a value lies; those beyond the ends lie there.
    pub fn at(&self, value: f64) -> f64 {
        let place = (value.clamp(self.from, self.to) / self.from).ln() / (self.to / self.from).ln();
        self.pixels.0 + place * (self.pixels.1 - self.pixels.0)
    }

    /// Round values within it: powers of ten times 1, 2 and 5, and more between them where it is short.
    pub fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match self.to / self.from {
            ratio if ratio < 3.0 => &[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            ratio if ratio < 12.0 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            ratio if ratio < 2_000.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        (-6..9)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(|value| (self.from..=self.to).contains(value))
            .collect()
    }
}

/// A number as an axis shows it: no digits that say nothing.
pub(super) fn label(value: f64) -> String {
    let digits = (2.0 - value.abs().log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_its_ends_at_its_ends_and_ticks_between_them() {
        let axis = LogAxis::new(0.9, 30.0, (100.0, 500.0));
        assert!(axis.at(0.9) > 100.0 && axis.at(30.0) < 500.0);
        assert_eq!((axis.at(1e-9), axis.at(1e9)), (100.0, 500.0));
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(axis.ticks().iter().all(|tick| (100.0..=500.0).contains(&axis.at(*tick))));
    }

    #[test]
    fn labels_have_no_digits_that_say_nothing() {
        assert_eq!([1.0, 1.5, 0.05, 20.0, 2_000.0].map(label), ["1", "1.5", "0.05", "20", "2000"]);
    }
}
