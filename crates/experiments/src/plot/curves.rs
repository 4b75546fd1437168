//! Curves over the steps of a training.

use std::error::Error;
use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::HPos;
use plotters::style::{BLACK, Color, IntoFont, WHITE};

use super::{Area, COLOURS, Decades, Drawn, GREY, GRID, HEAD, LEFT, LINE, decades, text};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 520;

/// Numbers under a name.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What they are.
    pub name: String,
    /// Steps and numbers.
    pub points: Vec<(f64, f64)>,
}

/// How the axis of numbers goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero, evenly.
    Even,
    /// By powers of ten. Numbers that are not positive have no place on it.
    PowersOfTen,
}

/// A picture of at most five curves.
pub fn curves(
    title: &str,
    [x, y]: [&str; 2],
    scale: Scale,
    curves: &[Curve],
) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(title.to_owned(), (WIDTH as i32 / 2, 26), text(20, BLACK, HPos::Center)))?;
        let (head, plot) = root.split_vertically(HEAD as i32 + LINE * curves.len() as i32);
        legend(&head, curves)?;
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let end = all().map(|(step, _)| *step).fold(1.0, f64::max);
        match scale {
            Scale::Even => {
                let top = all().map(|(_, number)| *number).fold(0.0, f64::max);
                let range: RangedCoordf64 = (0.0..if top > 0.0 { 1.05 * top } else { 1.0 }).into();
                draw(&plot, [x, y], end, range, curves, |number| Some(number).filter(|y| y.is_finite()))?;
            }
            Scale::PowersOfTen => {
                let range: Range<i32> = decades(all().map(|(_, number)| number));
                let place = |number: f64| Some(number.log10()).filter(|y| y.is_finite());
                draw(&plot, [x, y], end, Decades(range), curves, place)?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

fn draw<Y>(
    area: &Area<'_>,
    [x_words, y_words]: [&str; 2],
    end: f64,
    y: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    curves: &[Curve],
    place: impl Fn(f64) -> Option<f64>,
) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(LEFT as u32 - 8)
        .build_cartesian_2d(0.0..end, y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(WHITE.mix(0.0))
        .axis_style(GREY)
        .label_style(("sans-serif", 14).into_font().color(&GREY))
        .axis_desc_style(("sans-serif", 15).into_font().color(&BLACK))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .x_desc(x_words)
        .y_desc(y_words)
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let points = curve.points.iter().filter_map(|(step, number)| Some((*step, place(*number)?)));
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Above the plot, where no line can run into it.
fn legend(area: &Area<'_>, curves: &[Curve]) -> Drawn {
    for (n, (curve, colour)) in curves.iter().zip(COLOURS).enumerate() {
        let row = HEAD as i32 + LINE * n as i32 + 8;
        area.draw(&PathElement::new([(LEFT, row), (LEFT + 28, row)], colour.stroke_width(2)))?;
        area.draw(&Text::new(curve.name.clone(), (LEFT + 38, row), text(14, BLACK, HPos::Left)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, at: f64) -> Curve {
        Curve { name: name.into(), points: (1..50).map(|n| (f64::from(n), at / f64::from(n))).collect() }
    }

    #[test]
    fn curves_have_their_names_and_axes_and_are_the_same_bytes_again() {
        for (scale, tick) in [(Scale::Even, ">2.0<"), (Scale::PowersOfTen, "10⁻²")] {
            let both = [curve("before & after", 2.0), curve("after", 0.5)];
            let draw = |curves_: &[Curve]| curves("A run", ["outer step", "loss"], scale, curves_).unwrap();
            let svg = draw(&both);
            for words in ["A run", "before &amp; after", "outer step", "loss", "<polyline"] {
                assert!(svg.contains(words), "no '{words}' in {svg}");
            }
            assert!(svg.split_whitespace().collect::<String>().contains(tick), "no '{tick}' in {svg}");
            assert_eq!(svg, draw(&both));
            assert_ne!(svg, draw(&[curve("before & after", 2.0), curve("after", 0.4)]));
        }
    }

    #[test]
    fn numbers_without_a_place_do_no_harm() {
        let odd = Curve { name: "odd".into(), points: vec![(1.0, 0.0), (2.0, f64::NAN), (3.0, 1.0)] };
        for scale in [Scale::Even, Scale::PowersOfTen] {
            for all in [vec![odd.clone()], vec![Curve { points: Vec::new(), ..odd.clone() }], Vec::new()] {
                let svg = curves("t", ["x", "y"], scale, &all).unwrap();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }
}
