//! The fastest, against something.

use plotters::prelude::*;

use super::{
    Area, Axis, DARK, Drawn, GREY, GRID, LINE, NAMES, OURS, RIVALS, WIDTH, log, log_ticks, lost, text, tick,
};
use crate::harness::Table;
use crate::report::table;
use crate::rivals::Kind;

/// A contestant's line. Both coordinates are logarithms.
struct Line {
    name: String,
    kind: Kind,
    /// By which the fastest are chosen.
    score: f64,
    points: Vec<(f64, f64)>,
}

pub struct Lines {
    lines: Vec<Line>,
    /// What to write at which x.
    ticks: Vec<(f64, String)>,
    /// Of y.
    unit: &'static str,
}

/// Against the number of readers or the payload.
pub fn cost(tables: &[Table], class: &str) -> Lines {
    let mut lines: Vec<Line> = Vec::new();
    for table in tables {
        for row in table::of_class(table, class) {
            let point = (log(table.x.unwrap_or(0) as f64), log(row.spread().median));
            match lines.iter_mut().find(|line| line.name == row.name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line {
                    name: row.name.clone(),
                    kind: row.kind,
                    score: 0.0,
                    points: vec![point],
                }),
            }
        }
    }
    for line in &mut lines {
        line.score = line.points.iter().map(|point| point.1).sum::<f64>() / line.points.len() as f64;
    }
    let ticks = tables.iter().map(|table| (log(table.x.unwrap_or(0) as f64), table.case.clone())).collect();
    Lines { lines: fastest(lines, 8), ticks, unit: tables[0].what }
}

/// Up to the 99.99th percentile, or what there are enough latencies for.
pub fn latencies(table: &Table) -> Lines {
    let rows = table.rows.iter().filter_map(|row| Some((row, row.latencies.as_ref()?)));
    let lines = rows.map(|(row, latencies)| {
        let nines = (0..=40).map(|tenth| f64::from(tenth) / 10.0);
        let nines = nines.take_while(|nines| *nines <= (latencies.len() as f64).log10());
        let at = |nines: f64| latencies.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64;
        let points = nines.map(|nines| (nines, log(at(nines)))).collect();
        Line { name: row.name.clone() + &lost(row), kind: row.kind, score: row.spread().median, points }
    });
    let ticks = [
        (0.0, "0 %"),
        (2f64.log10(), "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
    ];
    let ticks = ticks.map(|(nines, percent)| (nines, String::from(percent))).into();
    Lines { lines: fastest(lines.collect(), 6), ticks, unit: table.what }
}

/// The best exclusive and the best shared row of ours, so many rivals, and the floor, or the harness's own cost where
/// there is none.
fn fastest(mut lines: Vec<Line>, rivals: usize) -> Vec<Line> {
    lines.sort_by(|a, b| a.score.total_cmp(&b.score));
    let has_floor = lines.iter().any(|line| line.kind == Kind::Floor);
    let (mut exclusive, mut shared, mut theirs) = (1, 1, rivals);
    lines.retain(|line| {
        let left = match line.kind {
            Kind::Floor => return true,
            Kind::Base => return !has_floor,
            Kind::Ours if line.name.contains("shared") => &mut shared,
            Kind::Ours => &mut exclusive,
            Kind::Rival => &mut theirs,
        };
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    lines
}

impl Lines {
    pub fn draw(&self, page: &Area, area: &Area, title: &str) -> Drawn {
        let Self { lines, ticks, unit } = self;
        let all = || lines.iter().flat_map(|line| &line.points);
        let least = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
        let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
        let x = least(|point| point.0) - 0.03..most(|point| point.0) + 0.03;
        let y = least(|point| point.1) - 0.08..most(|point| point.1) + 0.08;
        let x_ticks = ticks.iter().map(|tick| tick.0).filter(|tick| x.contains(tick)).collect();
        let y_ticks = log_ticks(y.start, y.end);
        area.draw_text(title, &text(14.0, BLACK), (88, 12))?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(24)
            .margin_right(NAMES + 30)
            .margin_bottom(12)
            .margin_left(8)
            .x_label_area_size(24)
            .y_label_area_size(80)
            .build_cartesian_2d(Axis { range: x, ticks: x_ticks }, Axis { range: y, ticks: y_ticks })?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GREY)
            .label_style(text(11.0, DARK))
            .axis_desc_style(text(11.0, DARK))
            .x_label_formatter(&|x| {
                ticks.iter().find(|tick| tick.0 == *x).map_or_else(String::new, |tick| tick.1.clone())
            })
            .y_label_formatter(&|y| tick(10f64.powf(*y)))
            .y_desc(*unit)
            .draw()?;
        let (mut ours, mut rivals) = (OURS.iter().cycle(), RIVALS.iter().cycle());
        let mut labels = Vec::new();
        for line in lines {
            let colour = match line.kind {
                Kind::Base | Kind::Floor => &GREY,
                Kind::Ours => ours.next().expect("endless"),
                Kind::Rival => rivals.next().expect("endless"),
            };
            let points = line.points.iter().copied();
            match line.kind {
                Kind::Base | Kind::Floor => {
                    chart.draw_series(DashedLineSeries::new(points, 10, 6, colour.stroke_width(2)))?;
                }
                Kind::Ours | Kind::Rival => {
                    let width = if line.kind == Kind::Ours { 3 } else { 1 };
                    let marker = if line.points.len() < 10 { width + 2 } else { 0 };
                    let style = colour.stroke_width(width).filled();
                    chart.draw_series(LineSeries::new(points, style).point_size(marker))?;
                }
            }
            if let Some(end) = line.points.last() {
                let end = chart.backend_coord(end);
                labels.push((end.1, end, colour, &line.name));
            }
        }
        // A name stands beside the end of its line, or as near as there is room.
        labels.sort_by_key(|label| label.0);
        let bottom = chart.plotting_area().get_pixel_range().1.end;
        let mut free = i32::MIN;
        for label in &mut labels {
            label.0 = label.0.max(free);
            free = label.0 + LINE as i32;
        }
        free = bottom;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(free);
            free = label.0 - LINE as i32;
        }
        for (y, end, colour, name) in labels {
            let x = WIDTH as i32 - NAMES as i32;
            page.draw(&PathElement::new([(end.0 + 5, end.1), (x - 4, y)], colour.mix(0.5)))?;
            page.draw_text(name, &text(11.0, *colour), (x, y))?;
        }
        Ok(())
    }
}
