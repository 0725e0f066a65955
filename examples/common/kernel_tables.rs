//! The tables of `kernels/README.md`, from the kernels' own words and from what their compiler says.

use invad::Result;
use invad::cuda::{Contract, compile, contracts, probe, variants};

/// What the tables are called in the file.
pub const LAUNCHES: &str = "launches";
pub const REGISTERS: &str = "registers";

/// The architecture whose registers are shown.
const ARCH: u32 = 89;
/// What a multiprocessor of it has.
const THREADS: u32 = 1536;
const BLOCKS: u32 = 24;
const ALL_REGISTERS: u32 = 65_536;

/// A row for each kernel: constants, size of the launch, arguments.
pub fn launches() -> String {
    let row = |contract: Contract| {
        let Contract { kernel, defines, grid, block, shared, arguments } = contract;
        let defines: Vec<String> = defines.iter().map(|name| format!("`{name}`")).collect();
        let mut last = None;
        let arguments: Vec<String> = arguments
            .iter()
            .map(|&(name, number)| match number.filter(|_| number != last) {
                Some(number) => {
                    last = Some(number);
                    format!("{number} {name}")
                }
                None => name.into(),
            })
            .collect();
        let (defines, shared) = (or_none(&defines.join(", ")), or_none(shared));
        let arguments = arguments.join(", ");
        format!("| `{kernel}` | {defines} | {grid} | {block} | {shared} | {arguments} |\n")
    };
    let heading = "| kernel | defines | grid | block | shared (bytes) | arguments |\n\
                   |---|---|---|---|---|---|\n";
    contracts().into_iter().map(row).fold(heading.into(), |table, row| table + &row)
}

/// A row for each variant that is for this architecture: registers, shared memory of its own, and blocks that a
/// multiprocessor holds of it.
pub fn registers() -> Result<String> {
    let mut table = format!(
        "{}, sm_{ARCH}:\n\n\
         | kernel | defines | registers | shared (bytes) | blocks/SM |\n|---|---|---|---|---|\n",
        compiler()
    );
    for variant in variants().into_iter().filter(|v| v.is_for(ARCH)) {
        let compiled = compile(variant.kernel, &variant.defines, ARCH)?;
        let defines: Vec<String> =
            variant.defines.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
        let defines = or_none(&defines.join(" "));
        let cells = compiled.usage().map_or("? | ? | ?".into(), |usage| {
            // Registers are handed out to warps in steps of 8 a thread.
            let of_block = usage.registers.next_multiple_of(8) * usage.threads;
            let blocks = BLOCKS.min(THREADS / usage.threads).min(ALL_REGISTERS / of_block);
            format!("{} | {} | {blocks}", usage.registers, usage.shared)
        });
        table += &format!("| `{}` | {defines} | {cells} |\n", variant.kernel);
    }
    Ok(table)
}

/// The compiler that is here.
pub fn compiler() -> String {
    let version = probe().nvrtc.version;
    version.map_or("NVRTC".into(), |(major, minor)| format!("NVRTC {major}.{minor}"))
}

/// A text in three: up to the mark of a table, the table, and from the mark of its end on. All is before a table
/// that has no marks.
pub fn parts<'a>(text: &'a str, name: &str) -> [&'a str; 3] {
    let mark = format!("<!-- {name} -->\n");
    let first = text.find(&mark).map_or(text.len(), |at| at + mark.len());
    let (before, rest) = text.split_at(first);
    let (table, after) = rest.split_at(rest.find("<!-- end -->").unwrap_or(0));
    [before, table, after]
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "–".into() } else { text.into() }
}
