//! Pictures of proofs, as SVG.
//!
//! Taylor remainders over the step, both on logarithmic axes: the order of a remainder is the slope of
//! its line. Each panel shows one operator; the thin lines have the slopes that right derivatives give.
//! Equal data give equal bytes.

pub mod curves;

use std::error::Error;
use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, Cross, EmptyElement, PathElement, Text, TriangleMarker};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};
use theria_jvp_hvp::proof::Remainders;

const WIDTH: u32 = 1080;
const HEIGHT: u32 = 660;
/// Pixels above the panels, for the title.
const HEAD: u32 = 44;
/// Pixels left of a plot, for its labels.
const LEFT: i32 = 72;
/// Height of a line of the legend.
const LINE: i32 = 20;

/// Blue, vermilion, green, purple and orange of Okabe and Ito: apart for every kind of colour vision, and the
/// markers of the first three differ as well.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];
const GREY: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Remainders under a name, with the order that right derivatives give them.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// What was subtracted.
    pub name: &'static str,
    /// The slope that it ought to have.
    pub order: i32,
    /// The remainders and their fitted slope.
    pub remainders: &'a Remainders,
}

/// One operator.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    /// The operator.
    pub title: String,
    /// At most three.
    pub series: Vec<Series<'a>>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Decades, Decades>>;
type Drawn = Result<(), Box<dyn Error + Send + Sync>>;

/// Panels side by side, with the same axes.
pub fn remainders(title: &str, panels: &[Panel<'_>]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(title.to_owned(), (WIDTH as i32 / 2, 26), text(22, BLACK, HPos::Center)))?;
        let all = || panels.iter().flat_map(|panel| &panel.series);
        let x = decades(all().flat_map(|series| &series.remainders.steps));
        let y = decades(all().flat_map(|series| &series.remainders.remainders));
        let (_, below) = root.split_vertically(HEAD);
        let areas = below.split_evenly((1, panels.len().max(1)));
        for (panel, area) in panels.iter().zip(&areas) {
            draw(panel, area, x.clone(), y.clone())?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// The whole powers of ten around some numbers, as exponents. Zero has none.
fn decades<'n>(numbers: impl Iterator<Item = &'n f64>) -> Range<i32> {
    let logarithms = || numbers.map(|number| number.log10()).filter(|logarithm| logarithm.is_finite());
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for logarithm in logarithms() {
        (low, high) = (low.min(logarithm), high.max(logarithm));
    }
    if low > high { 0..1 } else { low.floor() as i32..(high.ceil() as i32).max(low.floor() as i32 + 1) }
}

fn text(size: u32, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}

/// An axis of logarithms, from one whole power of ten to another.
struct Decades(Range<i32>);

impl Ranged for Decades {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, logarithm: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (logarithm - f64::from(self.0.start)) / self.0.len() as f64;
        start + (share * f64::from(end - start)).round() as i32
    }

    /// A tick at every power of ten, or at every second one where they are many.
    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let every = if self.0.len() > 9 { 2 } else { 1 };
        let ticks = (self.0.start..=self.0.end).filter(|exponent| exponent % every == 0);
        ticks.map(f64::from).collect()
    }

    fn range(&self) -> Range<f64> {
        f64::from(self.0.start)..f64::from(self.0.end)
    }
}

impl ValueFormatter<f64> for Decades {
    fn format(logarithm: &f64) -> String {
        power_of_ten(*logarithm)
    }
}

fn draw(panel: &Panel<'_>, area: &Area<'_>, x: Range<i32>, y: Range<i32>) -> Drawn {
    let (head, plot) = area.split_vertically(LINE * (panel.series.len() as i32 + 2) + 12);
    let middle = i32::midpoint(head.dim_in_pixel().0 as i32, LEFT);
    head.draw(&Text::new(panel.title.clone(), (middle, 12), text(16, BLACK, HPos::Center)))?;
    legend(&head, panel)?;
    let mut chart = ChartBuilder::on(&plot)
        .margin(8)
        .margin_right(20)
        .x_label_area_size(48)
        .y_label_area_size(LEFT as u32 - 8)
        .build_cartesian_2d(Decades(x.clone()), Decades(y.clone()))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(WHITE.mix(0.0))
        .axis_style(GREY)
        .label_style(("sans-serif", 14).into_font().color(&GREY))
        .axis_desc_style(("sans-serif", 15).into_font().color(&BLACK))
        .x_desc("step h")
        .y_desc("remainder")
        .draw()?;
    for (index, series) in panel.series.iter().enumerate() {
        reference(&mut chart, series, &x, &y)?;
        curve(&mut chart, series, index)?;
    }
    Ok(())
}

fn logarithms(series: &Series<'_>) -> Vec<(f64, f64)> {
    let Remainders { steps, remainders, .. } = series.remainders;
    let points = steps.iter().zip(remainders).filter(|(_, remainder)| **remainder > 0.0);
    points.map(|(step, remainder)| (step.log10(), remainder.log10())).collect()
}

/// The line of the order that the series ought to have, through its largest step, as far as the axes go.
fn reference(chart: &mut Chart<'_, '_>, series: &Series<'_>, x: &Range<i32>, y: &Range<i32>) -> Drawn {
    let Some(&(x0, y0)) = logarithms(series).first() else { return Ok(()) };
    let order = f64::from(series.order);
    let at = |y: f64| x0 + (y - y0) / order;
    let left = f64::from(x.start).max(at(f64::from(y.start)));
    let right = f64::from(x.end).min(at(f64::from(y.end)));
    let line = [left, right].map(|x| (x, y0 + order * (x - x0)));
    chart.draw_series(LineSeries::new(line, GREY.mix(0.55).stroke_width(1)))?;
    Ok(())
}

fn curve(chart: &mut Chart<'_, '_>, series: &Series<'_>, index: usize) -> Drawn {
    let points = logarithms(series);
    let colour = COLOURS[index % COLOURS.len()];
    chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
    let style: ShapeStyle = colour.filled();
    match index % COLOURS.len() {
        0 => chart.draw_series(points.into_iter().map(|at| Circle::new(at, 4, style)))?,
        1 => chart.draw_series(points.into_iter().map(|at| TriangleMarker::new(at, 5, style)))?,
        _ => chart.draw_series(points.into_iter().map(|at| Cross::new(at, 4, colour.stroke_width(2))))?,
    };
    Ok(())
}

/// Above the plot, where no line can run into it.
fn legend(area: &Area<'_>, panel: &Panel<'_>) -> Drawn {
    let row = |index: usize| LINE * (index as i32 + 1) + 18;
    let stroke = |index: usize| [(LEFT, row(index)), (LEFT + 28, row(index))];
    let words =
        |index: usize, words: String| Text::new(words, (LEFT + 38, row(index)), text(14, BLACK, HPos::Left));
    for (index, series) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        area.draw(&PathElement::new(stroke(index), colour.stroke_width(2)))?;
        let middle = EmptyElement::at((LEFT + 14, row(index)));
        match index % COLOURS.len() {
            0 => area.draw(&(middle + Circle::new((0, 0), 4, colour.filled())))?,
            1 => area.draw(&(middle + TriangleMarker::new((0, 0), 5, colour.filled())))?,
            _ => area.draw(&(middle + Cross::new((0, 0), 4, colour.stroke_width(2))))?,
        }
        area.draw(&words(index, format!("{}: slope {:.2}", series.name, series.remainders.slope)))?;
    }
    let last = panel.series.len();
    area.draw(&PathElement::new(stroke(last), GREY.mix(0.55).stroke_width(1)))?;
    let orders: Vec<String> = panel.series.iter().map(|series| series.order.to_string()).collect();
    area.draw(&words(last, format!("slopes {}, as right derivatives give them", orders.join(", "))))?;
    Ok(())
}

/// 10 to a whole power.
fn power_of_ten(exponent: f64) -> String {
    let digits = format!("{exponent:.0}");
    let raised = digits.chars().map(|digit| match digit {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    });
    std::iter::once('1').chain(std::iter::once('0')).chain(raised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_order(order: i32) -> Remainders {
        let steps: Vec<f64> = (6..12).map(|halving| 0.5_f64.powi(halving)).collect();
        let remainders = steps.iter().map(|h| 0.3 * h.powi(order)).collect();
        Remainders::new(steps, remainders, 1.0)
    }

    fn picture(right: &Remainders, wrong: &Remainders) -> String {
        let panel = |title: &str, remainders| Panel {
            title: title.into(),
            series: vec![Series { name: "φ, two terms", order: 3, remainders }],
        };
        remainders("Remainders", &[panel("exact", right), panel("frozen & wrong", wrong)]).unwrap()
    }

    #[test]
    fn a_picture_says_the_slopes_that_were_fitted_and_is_the_same_bytes_again() {
        let (right, wrong) = (of_order(3), of_order(2));
        let svg = picture(&right, &wrong);
        assert_eq!(svg, picture(&right, &wrong));
        for words in ["slope 3.00", "slope 2.00", "10⁻³", "step h", "remainder", "frozen &amp; wrong"] {
            assert!(svg.contains(words), "no '{words}' in {svg}");
        }
        assert_ne!(svg, picture(&right, &of_order(1)));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn remainders_that_are_zero_have_no_place_on_the_axes_and_do_no_harm() {
        let zero = Remainders::new(vec![0.5, 0.25], vec![0.0, 0.0], 1.0);
        let svg = picture(&zero, &zero);
        assert!(svg.contains("slope NaN") && !svg.contains("inf"), "{svg}");
        assert!(picture(&of_order(3), &zero).contains("slope 3.00"));
    }

    #[test]
    fn axes_reach_to_whole_powers_of_ten() {
        assert_eq!(decades([0.02, 3.0].iter()), -2..1);
        assert_eq!(decades([0.1].iter()), -1..0);
        assert_eq!(decades([0.0].iter()), 0..1);
        assert_eq!(power_of_ten(-12.0), "10⁻¹²");
        assert_eq!(power_of_ten(0.0), "10⁰");
    }
}
