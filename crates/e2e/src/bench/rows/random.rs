//! One big file here and there.

use super::{Contender, ROW_DEADLINE, Size, make_once, sequential};
use crate::Program;

pub fn prepare(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("random"), |path| sequential::write_big(path, size.random_bytes));
}

/// Direct reads of 4 KiB by so many processes.
pub fn read(contender: &Contender, size: &Size, jobs: u32) -> f64 {
    let done = Program::new("fio")
        .args(["--name=random", "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=psync", "--readonly"])
        .args(["--time_based", "--group_reporting", "--output-format=json", "--randrepeat=0"])
        .arg(format!("--runtime={}", size.random_time.as_secs()))
        .arg(format!("--numjobs={jobs}"))
        .arg(format!("--filename={}", contender.dir.join("random").display()))
        .deadline(ROW_DEADLINE)
        .ok();
    let text = done.text();
    let document = text.find('{').map_or("", |start| &text[start..]);
    let report: serde_json::Value =
        serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {done}"));
    report["jobs"][0]["read"]["iops"].as_f64().unwrap_or_else(|| panic!("no figure in {report}"))
}
