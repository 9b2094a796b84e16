//! Tells when a file appears in a directory.

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
mod kqueue;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub(super) use kqueue::Appearance;
#[cfg(target_os = "linux")]
pub(super) use linux::Appearance;
