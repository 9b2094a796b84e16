//! A release as one archive.

use crate::build::{Profile, agent_name, build, guest_name, host};
use crate::run::{self, Outcome, program};

/// Packs the program, the agent, completions, manual pages and units into `target/dist`.
pub fn dist() -> Outcome {
    let stead = build(Profile::Release)?;
    let host = host()?;
    let machine = host.split('-').next().unwrap_or(&host);
    let name = format!("stead-{}-{machine}-linux", env!("CARGO_PKG_VERSION"));
    let out = run::target().join("dist");
    let dir = out.join(&name);
    for part in ["", "completions", "man", "systemd"] {
        let part = dir.join(part);
        std::fs::create_dir_all(&part)
            .map_err(|error| format!("could not create {}: {error}", part.display()))?;
    }
    let agent = stead.with_file_name(agent_name(&host));
    let root = run::root();
    let guest = stead.with_file_name(guest_name(&host));
    let mut files = vec![stead.clone(), agent, guest];
    files.extend(
        ["LICENSE", "README.md"].map(|file| root.join(file)).into_iter().filter(|file| file.is_file()),
    );
    program("install").arg("--target-directory").arg(&dir).args(&files).run()?;
    let units = ["stead.service", "stead.socket"].map(|unit| root.join("platform/systemd").join(unit));
    program("install")
        .args(["-m", "644", "--target-directory"])
        .arg(dir.join("systemd"))
        .args(units)
        .run()?;
    for shell in ["bash", "zsh", "fish"] {
        let text = program(&stead).args(["completions", shell]).output()?;
        let path = dir.join("completions").join(format!("stead.{shell}"));
        std::fs::write(&path, text)
            .map_err(|error| format!("could not write {}: {error}", path.display()))?;
    }
    program(&stead).arg("man").arg(dir.join("man")).run()?;
    let archive = out.join(format!("{name}.tar.gz"));
    program("tar").arg("-C").arg(&out).arg("-czf").arg(&archive).arg(&name).run()?;
    println!("{}", archive.display());
    Ok(())
}
