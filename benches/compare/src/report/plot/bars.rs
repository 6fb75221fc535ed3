//! Everybody of a table and class.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    Area, Axis, DARK, Drawn, GREY, GRID, NAMES, OURS, RIVAL, log, log_ticks, lost, number, text, tick,
};
use crate::harness::{Row, Spread, Table};
use crate::rivals::Kind;

pub fn draw(area: &Area, table: &Table, class: &str, rows: &[&Row]) -> Drawn {
    let contest = rows.iter().filter(|row| matches!(row.kind, Kind::Ours | Kind::Rival));
    let contest: Vec<_> = contest.map(|row| row.spread().median).collect();
    let is_log = matches!(contest[..], [least, .., most] if most > 50.0 * least);
    let at = |value: f64| if is_log { log(value) } else { value };
    let from = if is_log { log(rows[0].spread().median).floor() } else { 0.0 };
    let longest = rows.iter().map(|row| row.spread().q3).fold(0.01, f64::max);
    // On a linear axis one disturbed contestant's whisker would make everybody's bar small.
    let longest = if is_log { longest } else { longest.min(rows[rows.len() - 1].spread().median * 1.3) };
    let to = at(longest.max(0.01));
    let ticks = if is_log { log_ticks(from, to) } else { RangedCoordf64::from(from..to).key_points(4) };
    let value = |row: &&Row| {
        let Spread { median, q3, .. } = row.spread();
        let beyond = if q3 > longest { format!(", q3 {}", number(q3)) } else { String::new() };
        number(median) + &beyond + &lost(row)
    };
    let values: Vec<_> = rows.iter().map(value).collect();
    let room = values.iter().map(String::len).max().unwrap_or(0) as u32 * 7 + 8;
    let bottom = rows.len() as f64 - 0.5;

    let case = if class.is_empty() { table.case.clone() } else { format!("{}, {class}", table.case) };
    area.draw_text(&case, &text(14.0, BLACK), (NAMES as i32, 12))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(24)
        .margin_left(NAMES)
        .margin_right(room)
        .margin_bottom(6)
        .x_label_area_size(36)
        .build_cartesian_2d(Axis { range: from..to, ticks }, bottom..-0.5)?;
    let unit = if is_log { format!("{}, logarithmic axis", table.what) } else { table.what.into() };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GREY)
        .set_tick_mark_size(LabelAreaPosition::Bottom, 3)
        .x_label_style(text(11.0, DARK))
        .axis_desc_style(text(11.0, DARK))
        .x_label_formatter(&|x| tick(if is_log { 10f64.powf(*x) } else { *x }))
        .x_desc(unit)
        .draw()?;
    let area = chart.plotting_area();
    for ((row, value), y) in rows.iter().zip(values).zip(0..) {
        let y = f64::from(y);
        let colour = match row.kind {
            Kind::Base | Kind::Floor => GREY,
            Kind::Ours => OURS[0],
            Kind::Rival => RIVAL,
        };
        let spread = row.spread();
        let (q1, median, q3) = (at(spread.q1), at(spread.median), at(spread.q3));
        let whisker = [(q1, y - 0.2), (q1, y + 0.2), (q1, y), (q3, y), (q3, y - 0.2), (q3, y + 0.2)];
        area.draw(&Rectangle::new([(from, y - 0.36), (median, y + 0.36)], colour.filled()))?;
        area.draw(&PathElement::new(whisker, DARK))?;
        let name = text(11.0, if row.kind == Kind::Ours { colour } else { BLACK });
        let name = name.pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&(EmptyElement::at((from, y)) + Text::new(row.name.clone(), (-6, 0), name)))?;
        area.draw(&(EmptyElement::at((q3.min(to), y)) + Text::new(value, (6, 0), text(11.0, DARK))))?;
    }
    Ok(())
}
