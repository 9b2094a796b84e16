//! A guest's network, as the host says it on the kernel's command line.
//!
//! | setting | |
//! |---|---|
//! | `stead.ip=ADDRESS/PREFIX` | the guest's address, of version 4, for its first interface |
//! | `stead.gw=ADDRESS` | the way out |
//! | `stead.dns=ADDRESS` | whom to ask for names |
//!
//! Without the first one there is no network but the loopback.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Where the kernel shows its interfaces.
const CLASS: &str = "/sys/class/net";

/// The interface that every machine has: what listens there is what tunnels lead to.
pub const LOOPBACK: &str = "lo";

/// What the host has said.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    resolver: Option<Ipv4Addr>,
}

impl Settings {
    /// Reads them from the kernel's command line; `None` without a network.
    pub fn read(line: &str) -> Result<Option<Settings>, String> {
        let setting = |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        let Some(text) = setting("stead.ip=") else { return Ok(None) };
        let wrong = |text: &str| format!("`{text}` is no address");
        let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| wrong(text));
        let (own, prefix) = text.split_once('/').ok_or_else(|| wrong(text))?;
        let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix));
        Ok(Some(Settings {
            address: address(own)?,
            prefix: prefix.ok_or_else(|| wrong(text))?,
            gateway: setting("stead.gw=").map(address).transpose()?,
            resolver: setting("stead.dns=").map(address).transpose()?,
        }))
    }

    fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// Gives the first interface that is not the loopback its address, and the guest its way out.
    pub fn apply(&self) -> Result<(), String> {
        let name =
            first_interface().ok_or("there is no interface: the image's kernel has none of its modules")?;
        let failed = |error: io::Error| format!("{name}: {error}");
        let socket = socket().map_err(failed)?;
        address(&socket, &name, libc::SIOCSIFADDR, self.address).map_err(failed)?;
        address(&socket, &name, libc::SIOCSIFNETMASK, self.mask()).map_err(failed)?;
        bring_up(&name).map_err(failed)?;
        if let Some(gateway) = self.gateway {
            default_route(&socket, gateway).map_err(failed)?;
        }
        match self.resolver {
            Some(resolver) => write_resolver(resolver).map_err(|error| format!("/etc/resolv.conf: {error}")),
            None => Ok(()),
        }
    }
}

/// Has an interface take part.
pub fn bring_up(name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ioctl(&socket()?, libc::SIOCSIFFLAGS, &request)
}

fn first_interface() -> Option<String> {
    let names = fs::read_dir(CLASS).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name != LOOPBACK).min()
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = byte as libc::c_char;
    }
    Ok(request)
}

fn address(socket: &OwnedFd, name: &str, number: libc::c_ulong, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_addr = socket_address(address);
    ioctl(socket, number, &request)
}

fn default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all of it may be zero.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    ioctl(socket, libc::SIOCADDRT, &route)
}

/// An address in the form that has room for every family.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // Behind the port.
    for (to, byte) in data[2..].iter_mut().zip(address.octets()) {
        *to = byte as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ioctl<T>(socket: &OwnedFd, number: libc::c_ulong, told: &T) -> io::Result<()> {
    // SAFETY: what is told is of the type that the number wants, and lives until the call is over. rustix has no such calls.
    match unsafe { libc::ioctl(socket.as_raw_fd(), number as _, std::ptr::from_ref(told)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In place of whatever is there: a link leads to what another network's set-up would write.
fn write_resolver(resolver: Ipv4Addr) -> io::Result<()> {
    let new = "/etc/.resolv.conf.stead";
    fs::create_dir_all("/etc")?;
    fs::write(new, format!("nameserver {resolver}\n"))?;
    fs::rename(new, "/etc/resolv.conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_whole_or_refused() {
        let read = |line: &str| Settings::read(line);
        assert_eq!(read("quiet stead.name=dev stead.gw=10.0.0.1"), Ok(None));
        let settings =
            read("quiet stead.ip=192.0.0.2/29 stead.gw=192.0.0.1 stead.dns=192.0.0.3").unwrap().unwrap();
        assert_eq!(settings.mask(), Ipv4Addr::new(255, 255, 255, 248));
        assert_eq!(settings.gateway, Some(Ipv4Addr::new(192, 0, 0, 1)));
        assert_eq!(settings.resolver, Some(Ipv4Addr::new(192, 0, 0, 3)));
        for wrong in ["1.2.3.4", "1.2.3.4/0", "1.2.3.4/33", "1.2.3/8", "/8", "::1/64"] {
            assert!(read(&format!("stead.ip={wrong}")).is_err(), "{wrong}");
        }
        assert!(read("stead.ip=1.2.3.4/8 stead.gw=x").is_err());
    }
}
