//! What is done on disk to start a microVM, before there is a VMM: looked at first, and undone if that does not start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machine::capability::{Capabilities, Capability};
use machine::course::Course;
use machine::engine::Engine;
use machine::image::Image;
use machine::vm::{Places, Record};
use machine::{Error, Result, disk, initramfs, preflight};
use wire::api::ErrorKind;

fn failed(message: String) -> Error {
    Error::new(ErrorKind::Failure, message)
}

/// What has to be there, of this computer and of the microVM. Nothing is made.
struct Requirements {
    name: String,
    record: Record,
    image: Image,
    engine: Arc<dyn Engine>,
}

impl Capability for Requirements {
    fn name(&self) -> &'static str {
        "requirements"
    }

    fn prepare(&self, places: &Places, _: &Course) -> Result<()> {
        self.engine.examine()?;
        preflight::image(&self.image)?;
        let lost = || failed(format!("the vm `{}` has lost its disk", self.name));
        disk::find(&places.directory).ok_or_else(lost)?;
        if let Some(network) = &self.record.network {
            network.preflight()?;
        }
        preflight::disk_space(&places.directory)?;
        preflight::memory(self.record.memory_mib).map(drop)
    }

    fn apply(&self, _: &Places, _: &Course) -> Result<()> {
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> Result<()> {
        Ok(())
    }

    fn undo(&self, _: &Places) -> Result<()> {
        Ok(())
    }
}

/// What its kernel begins with.
struct Initrd {
    init: PathBuf,
    agent: PathBuf,
    image: Image,
}

impl Capability for Initrd {
    fn name(&self) -> &'static str {
        "initrd"
    }

    fn prepare(&self, _: &Places, _: &Course) -> Result<()> {
        for program in [&self.init, &self.agent] {
            std::fs::metadata(program)
                .map_err(|error| failed(format!("could not look at `{}`: {error}", program.display())))?;
        }
        Ok(())
    }

    fn apply(&self, places: &Places, _: &Course) -> Result<()> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| failed(format!("could not read `{}`: {error}", path.display())))
        };
        let initrd = initramfs::write(&read(&self.init)?, &read(&self.agent)?, &self.image.modules()?);
        let written = write_private(&places.initrd(), &initrd);
        written.map_err(|error| failed(format!("could not write `{}`: {error}", places.initrd().display())))
    }

    fn verify(&self, places: &Places, _: &Course) -> Result<()> {
        match std::fs::metadata(places.initrd()).is_ok_and(|found| found.len() > 0) {
            true => Ok(()),
            false => Err(failed(format!("`{}` is not there", places.initrd().display()))),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        removed(&places.initrd(), std::fs::remove_file(places.initrd()))
    }
}

/// An empty place for its sockets.
struct Sockets;

impl Capability for Sockets {
    fn name(&self) -> &'static str {
        "sockets"
    }

    fn prepare(&self, _: &Places, _: &Course) -> Result<()> {
        Ok(())
    }

    fn apply(&self, places: &Places, _: &Course) -> Result<()> {
        self.undo(places)?;
        supervisor::socket::private_directory(&places.runtime).map_err(|error| failed(error.to_string()))
    }

    fn verify(&self, places: &Places, _: &Course) -> Result<()> {
        match places.runtime.is_dir() {
            true => Ok(()),
            false => Err(failed(format!("`{}` is not there", places.runtime.display()))),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        removed(&places.runtime, std::fs::remove_dir_all(&places.runtime))
    }
}

fn removed(path: &Path, outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("could not remove `{}`: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}

/// All of it, in its order.
pub(super) fn of_start(
    name: &str,
    record: &Record,
    image: &Image,
    engine: &Arc<dyn Engine>,
    (init, agent): (PathBuf, PathBuf),
) -> Capabilities {
    let requirements = Requirements {
        name: name.to_owned(),
        record: record.clone(),
        image: image.clone(),
        engine: Arc::clone(engine),
    };
    let initrd = Initrd { init, agent, image: image.clone() };
    vec![Box::new(requirements), Box::new(initrd), Box::new(Sockets)]
}
