//! The log of a thread's names, of which the power may have left anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store::log::Records;
use store::names::Names;

fuzz_target!(|bytes: &[u8]| {
    // As it is; and as the content of records, whose checksums no fuzzer finds.
    let _log = Names::replay(bytes);
    let mut records = Records::default();
    bytes.split(|byte| *byte == 0xa5).filter(|part| !part.is_empty()).for_each(|part| {
        records.push(|to| to.extend_from_slice(part));
    });
    let Some(Ok((names, _))) = Names::replay(&records.to_file()) else { return };
    let (again, _) = Names::replay(&names.snapshot().to_file()).expect("a log").expect("what was true stays true");
    assert!(again == names, "a compacted log says the same");
});
