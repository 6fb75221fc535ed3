//! The tables as plots: SVG, drawn by plotters.

mod bars;
mod lines;

use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Ran, file_name, table};
use crate::harness::{Row, Table};

/// What can be drawn of a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plot {
    /// The fastest, against the number of readers or the payload.
    Cost,
    /// The percentiles of the fastest.
    Latencies,
    /// Everybody.
    Bars,
}

impl Plot {
    /// Those that there are of these tables.
    pub fn of(tables: &[Table]) -> impl Iterator<Item = Self> {
        let cost = tables.iter().filter(|table| table.x.is_some()).count() > 1;
        let latencies = tables.iter().flat_map(|table| &table.rows).any(|row| row.latencies.is_some());
        [(Self::Cost, cost), (Self::Latencies, latencies), (Self::Bars, true)]
            .into_iter()
            .filter_map(|(plot, is)| is.then_some(plot))
    }

    pub fn file(self, scenario: &str) -> String {
        let what = match self {
            Self::Cost => "-cost",
            Self::Latencies => "-latencies",
            Self::Bars => "",
        };
        format!("{}{what}.svg", file_name(scenario))
    }

    pub fn title(self, scenario: &str, tables: &[Table]) -> String {
        let case = tables.last().map_or("", |table| &table.case);
        let what = match (self, case.rsplit(' ').next()) {
            (Self::Cost, Some(many @ ("readers" | "tasks"))) => format!(", cost against {many}"),
            (Self::Cost, _) => String::from(", cost against payload"),
            (Self::Latencies, _) => String::from(", percentiles"),
            (Self::Bars, _) => String::new(),
        };
        let unit = tables.first().map_or("", |table| table.what);
        format!("{scenario}{what} ({unit}, lower is better)")
    }
}

/// Writes the plots of a scenario.
///
/// # Errors
///
/// Those of the file system.
pub fn write(folder: &Path, ran: &Ran) -> io::Result<()> {
    let (scenario, _, tables) = ran;
    Plot::of(tables).try_for_each(|plot| {
        std::fs::write(folder.join(plot.file(scenario)), draw(plot, ran).map_err(io::Error::other)?)
    })
}

type Drawn<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Draws on a page, into an area of it.
type Panel<'a> = Box<dyn Fn(&Area, &Area) -> Drawn + 'a>;

const WIDTH: u32 = 980;
/// Of a row of bars, and of a line of text.
const LINE: u32 = 15;
/// For the longest name.
const NAMES: u32 = 240;

const OURS: [RGBColor; 2] = [RGBColor(201, 42, 42), RGBColor(240, 110, 90)];
const RIVALS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(148, 103, 189),
    RGBColor(225, 160, 0),
    RGBColor(86, 180, 233),
    RGBColor(140, 86, 75),
    RGBColor(120, 140, 30),
    RGBColor(210, 110, 180),
];
const RIVAL: RGBColor = RGBColor(120, 160, 205);
const GREY: RGBColor = RGBColor(150, 150, 150);
const DARK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Of a height in pixels, which plotters divides by 1.24.
fn text(size: f64, colour: RGBColor) -> TextStyle<'static> {
    let font = ("sans-serif", size * 1.24).into_font();
    TextStyle { font, color: colour.to_backend_color(), pos: Pos::new(HPos::Left, VPos::Center) }
}

/// A linear axis, with ticks where they are told to be.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

fn draw(plot: Plot, (scenario, about, tables): &Ran) -> Drawn<String> {
    let mut panels: Vec<(u32, Panel)> = Vec::new();
    match plot {
        Plot::Cost => {
            for class in table::classes(&tables[0]) {
                let lines = lines::cost(tables, class);
                panels.push((370, Box::new(move |page, area| lines.draw(page, area, class))));
            }
        }
        Plot::Latencies => {
            for table in tables {
                let lines = lines::latencies(table);
                panels.push((370, Box::new(move |page, area| lines.draw(page, area, &table.case))));
            }
        }
        Plot::Bars => {
            for table in tables {
                for class in table::classes(table) {
                    let rows = table::of_class(table, class);
                    let height = rows.len() as u32 * LINE + 70;
                    panels.push((height, Box::new(move |_, area| bars::draw(area, table, class, &rows))));
                }
            }
        }
    }
    let columns = if plot == Plot::Bars && panels.len() > 1 { 2 } else { 1 };
    let about = wrapped(about.split_inclusive(". ").next().unwrap_or_default(), 155);
    let head = 40 + LINE * (about.len() as u32 + 1);
    let height_of = |row: &[(u32, _)]| row.iter().map(|panel| panel.0).max().unwrap_or(0);
    let height = head + panels.chunks(columns).map(height_of).sum::<u32>();

    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        page.fill(&WHITE)?;
        page.draw_text(&plot.title(scenario, tables), &text(17.0, BLACK), (12, 18))?;
        for (line, y) in about.iter().zip((40..).step_by(LINE as usize)) {
            page.draw_text(line, &text(12.0, DARK), (12, y))?;
        }
        key(&page, plot, head as i32 - 10)?;
        let mut below = page.split_vertically(head).1;
        for row in panels.chunks(columns) {
            let (now, rest) = below.split_vertically(height_of(row));
            for ((height, draw), area) in row.iter().zip(now.split_evenly((1, columns))) {
                draw(&page, &area.split_vertically(*height).0)?;
            }
            below = rest;
        }
        page.present()?;
    }
    // What SVG takes for granted.
    for default in [" opacity=\"1\"", " stroke=\"none\"", " text-anchor=\"start\""] {
        svg = svg.replace(default, "");
    }
    Ok(svg)
}

/// What the colours mean.
fn key(page: &Area, plot: Plot, y: i32) -> Drawn {
    let (rivals, last) = match plot {
        Plot::Bars => (&[RIVAL][..], "whiskers: quartiles of the rounds"),
        Plot::Cost => (
            &RIVALS[..3],
            "logarithmic axes; the best exclusive and shared lapwing, and eight rivals, by geometric mean",
        ),
        Plot::Latencies => (
            &RIVALS[..3],
            "logarithmic axes; the best exclusive and shared lapwing, and six rivals, by median",
        ),
    };
    let mut x = 12;
    for (name, colours) in [("lapwing", &OURS[..1]), ("rivals", rivals), ("base, floor", &[GREY][..])] {
        for colour in colours {
            page.draw(&Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()))?;
            x += 12;
        }
        page.draw_text(name, &text(12.0, DARK), (x + 3, y))?;
        x += 20 + 7 * name.len() as i32;
    }
    page.draw_text(last, &text(12.0, DARK), (x, y))?;
    Ok(())
}

fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            *line += " ";
            *line += word;
        } else {
            lines.push(word.into());
        }
    }
    lines
}

/// By three digits, in groups.
fn number(value: f64) -> String {
    fn grouped(value: u64) -> String {
        if value < 1000 {
            value.to_string()
        } else {
            format!("{},{:03}", grouped(value / 1000), value % 1000)
        }
    }
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => grouped(value.round() as u64),
    }
}

/// A round number.
fn tick(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{unit}", (value * 100.0).round() / 100.0)
}

fn log(value: f64) -> f64 {
    value.max(0.01).log10()
}

/// Logarithms of round numbers.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let of_decade: &[f64] = if to - from < 2.3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let decades = from.floor() as i32..=to.floor() as i32;
    let ticks =
        decades.flat_map(|decade| of_decade.iter().map(move |times| times.log10() + f64::from(decade)));
    ticks.filter(|tick| (from..=to).contains(tick)).collect()
}

/// What a figure says nothing of.
fn lost(row: &Row) -> String {
    let (lost, of) = row.lost;
    if lost == 0 { String::new() } else { format!(", lost {:.2} %", lost as f64 * 100.0 / of.max(1) as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::histogram;
    use crate::rivals::Kind;

    fn row(name: &str, kind: Kind, class: &'static str, rounds: [f64; 3]) -> Row {
        let mut latencies = histogram();
        latencies.record_n(rounds[0] as u64, 1000).expect("it is in bounds");
        Row {
            name: name.into(),
            kind,
            class,
            rounds: rounds.into(),
            lost: (1, 8),
            latencies: Some(latencies),
        }
    }

    #[test]
    fn every_plot_is_well_formed_and_names_its_rows() {
        let table = |case: &str, x| Table {
            scenario: "a, b",
            case: case.into(),
            x: Some(x),
            what: "ns/event",
            rows: vec![
                row("base", Kind::Base, "one", [0.0, 0.0, 0.0]),
                row("lapwing shared", Kind::Ours, "one", [3.0, 1.0, 2.0]),
                row("tokio, Arc<[u8]> & more", Kind::Rival, "one", [4.0, 5.0, 9e6]),
                row("lapwing exclusive", Kind::Ours, "two", [1.0, 1.0, 1.0]),
                row("bus", Kind::Rival, "two", [99.0, 98.0, 97.0]),
            ],
            verdicts: Vec::new(),
        };
        let ran: Ran = ("a, b", "What is done. And more.", vec![table("u64", 8), table("64 B", 64)]);
        let plots: Vec<_> = Plot::of(&ran.2).collect();
        assert_eq!(
            plots.iter().map(|plot| plot.file(ran.0)).collect::<Vec<_>>(),
            ["a-b-cost.svg", "a-b-latencies.svg", "a-b.svg"]
        );
        for plot in plots {
            let svg = draw(plot, &ran).expect("it can be drawn");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let document = roxmltree::Document::parse(&svg).expect("it is well-formed");
            let texts: Vec<_> = document
                .descendants()
                .filter(|node| node.is_text())
                .filter_map(|node| node.text())
                .map(str::trim)
                .collect();
            let count = |start: &str| texts.iter().filter(|text| text.starts_with(start)).count();
            assert_eq!(count("What is done."), 1);
            assert_eq!(count("And more."), 0);
            // Costs are in a panel for each class, the others in one for each table.
            let times = if plot == Plot::Cost { 1 } else { 2 };
            for Row { name, .. } in &ran.2[0].rows {
                let in_key = usize::from(name == "base");
                assert_eq!(count(name), times + in_key, "{name}: {texts:?}");
            }
            let of_lost = if plot == Plot::Cost { 0 } else { 10 };
            assert_eq!(
                texts.iter().filter(|text| text.contains(", lost 12.50 %")).count(),
                of_lost,
                "{texts:?}"
            );
        }
    }
}
