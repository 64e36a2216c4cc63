//! What the overflow directory and the dead letters do to files: in one place, so that tests can have it fail, be torn and be
//! forgotten as disks do.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Result, Seek, SeekFrom, Write};
use std::path::Path;

#[cfg(test)]
pub(crate) mod faults;

/// Makes an empty file.
pub(crate) fn create(path: &Path) -> Result<File> {
    #[cfg(test)]
    faults::call(faults::Call::Create, path)?;
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    #[cfg(test)]
    faults::created(path);
    Ok(file)
}

/// Writes all parts from that place on, several with one call. Of what fails, a part may have been written.
pub(crate) fn write(file: &mut File, path: &Path, at: u64, parts: &[&[u8]]) -> Result<()> {
    file.seek(SeekFrom::Start(at))?;
    #[cfg(test)]
    faults::before_write(file, path, at, parts)?;
    let _ = path;
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `bytes` from that place on.
pub(crate) fn read(file: &mut File, path: &Path, at: u64, bytes: &mut [u8]) -> Result<()> {
    #[cfg(test)]
    faults::call(faults::Call::Read, path)?;
    let _ = path;
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

/// Cuts a file off.
pub(crate) fn cut(file: &File, path: &Path, len: u64) -> Result<()> {
    #[cfg(test)]
    faults::call(faults::Call::Cut, path)?;
    let _ = path;
    file.set_len(len)
}

/// Has the disk keep what a file is now. After a failure nobody knows what it has kept, and another call does not tell.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    #[cfg(test)]
    if faults::syncs(path)? {
        return Ok(());
    }
    let _ = path;
    file.sync_all()
}

/// Has the disk keep which files are in a directory.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    #[cfg(test)]
    if faults::syncs_dir(path)? {
        return Ok(());
    }
    crate::sys::shared::sync_dir(path)
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    #[cfg(test)]
    faults::call(faults::Call::Remove, path)?;
    std::fs::remove_file(path)?;
    #[cfg(test)]
    faults::removed(path);
    Ok(())
}

/// Puts a file in place of another, or where none was: whatever happens, it is the old or the new one. `draft` is where it is
/// written, in the same directory.
pub(crate) fn put(path: &Path, draft: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = create(draft)?;
    write(&mut file, draft, 0, parts)?;
    sync(&file, draft)?;
    #[cfg(test)]
    faults::call(faults::Call::Rename, path)?;
    std::fs::rename(draft, path)?;
    #[cfg(test)]
    faults::renamed(draft, path);
    // Its name must last as its bytes do.
    path.parent().map_or(Ok(()), sync_dir)
}
