//! Metrics as a table.

use invad::Comparison;
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

/// How a detector does beside simpler methods on synthetic defects.
pub fn comparison_table(comparison: &Comparison) -> String {
    let Comparison { images, detector, baselines } = comparison;
    let methods = [
        ("detector", detector),
        ("PaDiM", &baselines.padim),
        ("nearest neighbour", &baselines.nearest_neighbour),
    ];
    let title = "synthetic defects, image AUROC / AU-PRO, %";
    let names = detector.categories.keys().map(|name| name.chars().count());
    let width = names.max().unwrap_or(0).max(title.chars().count());
    let mut lines = vec![format!("{title:width$}  {:>15}", "held-out images")];
    for (method, _) in methods {
        lines[0] += &format!("  {method:>17}");
    }
    let cell = |metrics: &Metrics| {
        let [image, pro] = [metrics.image_auroc, metrics.au_pro]
            .map(|value| value.map_or("-".into(), |v| format!("{v:.1}")));
        format!("  {:>17}", format!("{image} / {pro}"))
    };
    let mut row = |name: &str, images: usize, of: &dyn Fn(&Evaluated) -> Metrics| {
        let cells: String = methods.iter().map(|(_, evaluated)| cell(&of(evaluated))).collect();
        lines.push(format!("{name:width$}  {images:>15}{cells}"));
    };
    for (name, &images) in images {
        row(name, images, &|evaluated| evaluated.categories[name]);
    }
    if images.len() > 1 {
        row("mean", images.values().sum(), &|evaluated| evaluated.mean);
    }
    lines.join("\n")
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
