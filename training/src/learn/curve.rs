//! The learning curve as a picture: cost by generation on the training lessons, and on the validation scenarios, beside the
//! prior and the rivals.

use plotters::prelude::*;

use super::LearnError;

/// A line of the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Points of (generation, cost).
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: LineStyle,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStyle {
    /// A thin line: noisy.
    Faint,
    /// A thick line with a dot at each point.
    Dotted,
    /// A horizontal line to compare with.
    Level,
}

const SIZE: (u32, u32) = (960, 540);
/// Okabe and Ito's colours, which people who confuse red and green tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// Draws these lines as an SVG.
///
/// # Errors
/// If it cannot be drawn.
pub fn draw(title: &str, lines: &[Line]) -> Result<String, LearnError> {
    let mut svg = String::new();
    draw_into(&mut svg, title, lines).map_err(|error| LearnError::Plot(error.to_string()))?;
    Ok(svg)
}

fn draw_into(svg: &mut String, title: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let finite = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let last = finite().map(|(x, _)| *x).fold(1.0, f64::max);
    let low = finite().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = finite().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = (0.05 * (high - low)).max(0.01);
    // The legend lies above all lines.
    let legend = margin * (1.0 + lines.len() as f64);

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, low - margin..high + legend)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc("generation")
        .y_desc("mean cost (lower is better)")
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let (stroke, colour) = match line.style {
            LineStyle::Faint => (1, colour.mix(0.55)),
            LineStyle::Dotted => (3, colour.mix(1.0)),
            LineStyle::Level => (2, colour.mix(0.9)),
        };
        let style = colour.stroke_width(stroke);
        let points = line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style));
        if line.style == LineStyle::Dotted {
            chart.draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, points: Vec<(f64, f64)>, style: LineStyle) -> Line {
        Line { name: name.to_owned(), points, style }
    }

    #[test]
    fn a_curve_names_its_lines_and_is_whole() {
        let lines = [
            line("linear, lessons", vec![(1.0, 0.5), (2.0, 0.4), (3.0, f64::NAN)], LineStyle::Faint),
            line("linear, validation", vec![(2.0, 0.45)], LineStyle::Dotted),
            line("prior", vec![(0.0, 0.6), (3.0, 0.6)], LineStyle::Level),
        ];
        let svg = draw("training", &lines).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(lines.iter().all(|line| svg.contains(&line.name)));
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        assert!(draw("training", &[]).is_ok());
        assert!(draw("training", &[line("one", vec![(0.0, 0.2)], LineStyle::Dotted)]).is_ok());
    }
}
