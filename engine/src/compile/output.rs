//! An artifact's file, which has no name until it is whole.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Of an artifact: engines of other users map it too, and the directories above say who else comes here.
const MODE: u32 = 0o644;

/// A file that nobody sees until it is published.
pub struct Unnamed {
    /// Open for reading and writing, at its beginning.
    pub file: File,
    /// Its name, where it needs one.
    name: Option<PathBuf>,
}

impl Unnamed {
    /// Writes the content beside `output`.
    pub fn write(output: &Path, content: &[u8]) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(MODE);
        let unnamed = rustix::fs::open(
            directory(output),
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            mode,
        );
        let mut this = match unnamed {
            Ok(descriptor) => Self {
                file: descriptor.into(),
                name: None,
            },
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let name = named_temporary(output, std::process::id());
                let _ = std::fs::remove_file(&name);
                let mut options = File::options();
                let file = options
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(MODE)
                    .open(&name)?;
                Self {
                    file,
                    name: Some(name),
                }
            }
            Err(error) => return Err(error.into()),
        };
        this.file.write_all(content)?;
        this.file.rewind()?;
        Ok(this)
    }

    /// Gives it its name.
    pub fn publish(mut self, output: &Path) -> io::Result<()> {
        let name = match self.name.take() {
            Some(name) => name,
            None => {
                let name = named_temporary(output, std::process::id());
                let _ = std::fs::remove_file(&name);
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, unnamed, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
                name
            }
        };
        let renamed = std::fs::rename(&name, output);
        if renamed.is_err() {
            let _ = std::fs::remove_file(&name);
        }
        renamed
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Where it is made.
pub fn directory(output: &Path) -> &Path {
    let parent = output.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The name before the rename; of an inner process, so that two for one output do not meet.
pub fn named_temporary(output: &Path, process: u32) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".{process}.new"));
    name.into()
}
