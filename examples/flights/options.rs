//! The command line, and the directory that the store's file goes to.

use std::path::{Path, PathBuf};

use crate::Failure;

const HELP: &str = "\
Replays a year of flights through a small store and checks every answer.

  --data-dir PATH   keep the store's file there (must be empty or not exist yet)
  --keep            keep the store's file in its temporary directory
  --help            print this";

/// What the command line asks for.
#[derive(Default)]
pub(crate) struct Options {
    data_dir: Option<PathBuf>,
    keep: bool,
}

impl Options {
    /// Reads the command line; `None` when help was all that it asked for.
    pub(crate) fn from_args() -> Result<Option<Self>, Failure> {
        let mut options = Self::default();
        let mut args = std::env::args_os().skip(1);
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--keep") => options.keep = true,
                Some("--data-dir") => {
                    options.data_dir = Some(args.next().ok_or("--data-dir needs a path")?.into());
                }
                Some("--help" | "-h") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                _ => return Err(format!("there is no option {}\n{HELP}", arg.display()).into()),
            }
        }
        Ok(Some(options))
    }
}

/// The data directory, which goes away with this value unless it is to be kept.
pub(crate) struct DataDir {
    path: PathBuf,
    keep: bool,
}

impl DataDir {
    /// Makes the directory that the options ask for.
    pub(crate) fn make(options: &Options) -> Result<Self, Failure> {
        let temporary = || std::env::temp_dir().join(format!("esker-flights-{}", std::process::id()));
        let path = options.data_dir.clone().unwrap_or_else(temporary);
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make the directory {}: {error}", path.display()))?;
        if std::fs::read_dir(&path)?.next().is_some() {
            // The year would be replayed on top of what is there.
            return Err(format!("the directory {} is not empty", path.display()).into());
        }
        Ok(Self { path, keep: options.keep || options.data_dir.is_some() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes of files.
#[derive(Clone, Copy, Default)]
pub(crate) struct DiskSize {
    /// Up to their ends.
    pub(crate) length: u64,
    /// That the file system has given them.
    pub(crate) space: u64,
}

impl DiskSize {
    /// The length of the files in a directory, and the space that they take: less where a file has grown ahead of need.
    pub(crate) fn of(dir: &Path) -> Result<Self, Failure> {
        let mut size = Self::default();
        for file in std::fs::read_dir(dir)? {
            let file = file?;
            if file.file_type()?.is_dir() {
                let inner = Self::of(&file.path())?;
                size = Self { length: size.length + inner.length, space: size.space + inner.space };
            } else {
                let metadata = file.metadata()?;
                size.length += metadata.len();
                size.space += space(&metadata);
            }
        }
        Ok(size)
    }
}

#[cfg(unix)]
fn space(metadata: &std::fs::Metadata) -> u64 {
    // Blocks are of 512 bytes here, whatever the file system's own are.
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn space(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.keep {
            println!("The store's file is kept in {}.", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
