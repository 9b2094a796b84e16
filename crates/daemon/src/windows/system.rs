//! What is asked of Windows about this process.

use std::io;

use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// How much memory this process has.
pub(super) fn resident_bytes() -> io::Result<u64> {
    let bytes = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut told = PROCESS_MEMORY_COUNTERS { cb: bytes, ..PROCESS_MEMORY_COUNTERS::default() };
    // SAFETY: this process's own handle; the system writes at most as many bytes as the object has.
    match unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &mut told, bytes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(told.WorkingSetSize as u64),
    }
}
