//! Metrics as a table.

use invad::baselines::Baselines;
use invad::detect::{Evaluated, Evaluation};
use invad::metrics::{COLUMNS, Metrics};

/// The tables of an evaluation.
pub fn tables(evaluation: &Evaluation, baselines: Option<&Baselines>) -> String {
    let mut tables = vec![
        table("calibrated scores, %", &evaluation.calibrated),
        table("paper protocol, %", &evaluation.paper),
    ];
    if let Some(baselines) = baselines {
        tables.push(table("PaDiM, %", &baselines.padim));
        tables.push(table("nearest neighbour, %", &baselines.nearest_neighbour));
    }
    tables.join("\n\n")
}

fn table(title: &str, evaluated: &Evaluated) -> String {
    let rows: Vec<(&str, &Metrics)> = evaluated
        .categories
        .iter()
        .map(|(name, metrics)| (name.as_str(), metrics))
        .chain([("mean", &evaluated.mean)])
        .collect();
    let names = rows.iter().map(|(name, _)| name.chars().count());
    let width = names.max().unwrap_or(0).max(title.chars().count());

    let mut headings = format!("{title:width$}");
    let mut titles = " ".repeat(width);
    for (heading, columns) in COLUMNS {
        let under: String = columns.iter().map(|(title, _)| format!("  {title:>6}")).collect();
        let span = under.chars().count() - 2;
        headings += &format!("   {heading:<span$}");
        titles += &format!(" {under}");
    }
    let mut lines = vec![headings.trim_end().to_string(), titles];
    for (name, metrics) in rows {
        let mut line = format!("{name:width$}");
        for (_, columns) in COLUMNS {
            line += " ";
            for (title, value) in columns {
                let width = title.chars().count().max(6);
                let cell = value(metrics).map_or("-".into(), |v| format!("{v:.1}"));
                line += &format!("  {cell:>width$}");
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}
