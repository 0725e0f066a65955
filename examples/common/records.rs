//! What is recorded of each image.

use std::io;
use std::path::Path;

use invad::detect::Scored;
use invad::files::AtomicFile;
use invad::{Error, Result};
use serde::Serialize;

/// What a detector said of an image. Paths of pictures are relative to the output folder.
#[derive(Serialize)]
pub struct Judged {
    /// The image file.
    pub path: String,
    /// The score, in standard deviations above the mean of held-out normal images.
    pub score: f64,
    /// The score from which on an image is anomalous.
    pub threshold: f64,
    /// Whether the score reaches it.
    pub anomalous: bool,
    /// Whether the image is unlike all normal ones as a whole, so that its score says little.
    pub unfamiliar: bool,
    /// Largest less smallest norm of the latent.
    pub abs: f32,
    /// Negative log-likelihood.
    pub nll: f64,
    /// Largest mean of 2 × 2 neighbouring values of the map.
    pub block: f32,
    /// Mean of the 5 largest values of the map.
    pub top5: f32,
    /// Largest value of the map.
    pub max: f32,
    /// The category whose normal images it was judged by; none if all are pooled.
    pub calibration: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The overlay.
    pub overlay: Option<String>,
    /// The mask of what is anomalous.
    pub mask: Option<String>,
    /// The map.
    pub map: Option<String>,
}

/// The columns of a CSV file: the fields of [`Judged`], and what was wrong with the image.
const COLUMNS: [&str; 17] = [
    "path",
    "score",
    "threshold",
    "anomalous",
    "unfamiliar",
    "abs",
    "nll",
    "block",
    "top5",
    "max",
    "calibration",
    "width",
    "height",
    "overlay",
    "mask",
    "map",
    "error",
];

#[derive(Serialize)]
struct Unreadable<'a> {
    path: &'a str,
    error: &'a str,
}

impl Judged {
    /// What was said of the image at `path`, which no pictures show.
    pub fn new(
        path: &Path,
        size: (u32, u32),
        scored: &Scored,
        calibration: Option<String>,
    ) -> Self {
        Self {
            path: path.to_string_lossy().into_owned(),
            score: scored.score,
            threshold: scored.threshold,
            anomalous: scored.is_anomalous,
            unfamiliar: scored.is_unfamiliar,
            abs: scored.stats.abs,
            nll: scored.stats.nll,
            block: scored.stats.block,
            top5: scored.stats.top5,
            max: scored.stats.max,
            calibration,
            width: size.0,
            height: size.1,
            overlay: None,
            mask: None,
            map: None,
        }
    }
}

/// One JSON object a line.
pub struct Jsonl {
    file: AtomicFile,
    path: std::path::PathBuf,
}

impl Jsonl {
    /// Begins the file that is to appear at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: AtomicFile::create(path)?, path: path.into() })
    }

    /// Writes a line.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.file, value)
            .map_err(io::Error::from)
            .and_then(|()| io::Write::write_all(&mut self.file, b"\n"))
            .map_err(|e| Error::io(&self.path, e))
    }

    /// Writes what is wrong with the image at `path`.
    pub fn write_unreadable(&mut self, path: &Path, error: &Error) -> Result<()> {
        self.write(&Unreadable { path: &path.to_string_lossy(), error: &error.to_string() })
    }

    /// The file is complete.
    pub fn commit(self) -> Result<()> {
        self.file.commit()
    }
}

/// The same as JSON lines and as CSV.
pub struct Records {
    jsonl: Jsonl,
    csv: csv::Writer<AtomicFile>,
    path: std::path::PathBuf,
}

impl Records {
    /// Begins `scores.jsonl` and `scores.csv` in a folder.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("scores.csv");
        let jsonl = Jsonl::create(&folder.join("scores.jsonl"))?;
        let file = AtomicFile::create(&path)?;
        let csv = csv::WriterBuilder::new().has_headers(false).from_writer(file);
        let mut records = Self { jsonl, csv, path };
        records.row(COLUMNS)?;
        Ok(records)
    }

    /// Writes what was said of an image.
    pub fn write(&mut self, judged: &Judged) -> Result<()> {
        self.jsonl.write(judged)?;
        self.row((judged, ""))
    }

    /// Writes what is wrong with the image at `path`.
    pub fn write_unreadable(&mut self, path: &Path, error: &Error) -> Result<()> {
        self.jsonl.write_unreadable(path, error)?;
        let mut row = COLUMNS.map(|_| String::new());
        row[0] = path.to_string_lossy().into_owned();
        row[COLUMNS.len() - 1] = error.to_string();
        self.row(row)
    }

    /// The files are complete.
    pub fn commit(self) -> Result<()> {
        let Self { jsonl, csv, path } = self;
        let csv = csv.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
        jsonl.commit()?;
        csv.commit()
    }

    fn row(&mut self, row: impl Serialize) -> Result<()> {
        self.csv.serialize(row).map_err(|e| Error::io(&self.path, e.into()))
    }
}
