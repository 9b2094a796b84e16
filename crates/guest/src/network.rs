//! The network that the host has given: one address on the first network card, and a name.
//!
//! There is nobody to ask for an address: the kernel's command line has it, so the guest has its network before its init begins.
//! An init that has a configuration of its own changes it as it likes.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Where the kernel shows its network cards.
const CLASS: &str = "/sys/class/net";

/// The kernel's driver of the cards that a microVM has.
const DRIVER: &str = "virtio_net";

/// How long a card may take to be found.
const CARD_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked for.
const CARD_INTERVAL: Duration = Duration::from_millis(5);

/// The longest name of a network card, with a zero byte.
const NAME_BYTES_MAX: usize = libc::IFNAMSIZ;

/// What the host says of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    resolver: Option<Ipv4Addr>,
}

impl Network {
    /// What the words of the kernel's command line say: `stead.ip=ADDRESS/PREFIX`, `stead.gw=ADDRESS`, `stead.dns=ADDRESS`. None
    /// if there is no address in them.
    pub fn read(line: &str) -> Result<Option<Network>, String> {
        let setting = |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        let Some(place) = setting("stead.ip=") else { return Ok(None) };
        let wrong = || format!("`{place}` is no address");
        let (address, prefix) = place.split_once('/').ok_or_else(wrong)?;
        let prefix = prefix.parse().ok().filter(|&prefix| prefix <= 32).ok_or_else(wrong)?;
        let other = |name: &str| {
            let address = setting(name).map(|text| text.parse::<Ipv4Addr>());
            address.transpose().map_err(|error| format!("{name}{error}"))
        };
        Ok(Some(Network {
            address: address.parse().map_err(|_| wrong())?,
            prefix,
            gateway: other("stead.gw=")?,
            resolver: other("stead.dns=")?,
        }))
    }

    /// Gives the first network card the address, and the way out.
    pub fn apply(&self) -> io::Result<()> {
        let card = Card::find()?;
        card.set(libc::SIOCSIFADDR, self.address)?;
        card.set(libc::SIOCSIFNETMASK, mask(self.prefix))?;
        card.bring_up()?;
        if let Some(gateway) = self.gateway {
            card.lead_out_by(gateway)?;
        }
        match self.resolver {
            Some(resolver) => replace(Path::new("/etc/resolv.conf"), &format!("nameserver {resolver}\n")),
            None => Ok(()),
        }
    }
}

/// The name of the guest, for those who read it from files.
pub fn name_host(name: &str) -> io::Result<()> {
    replace(Path::new("/etc/hostname"), &format!("{name}\n"))?;
    let hosts = Path::new("/etc/hosts");
    match hosts.exists() {
        true => Ok(()),
        false => replace(hosts, &format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost\n")),
    }
}

/// Brings up the network that every machine has: what listens there is what tunnels lead to.
pub fn loopback() -> io::Result<()> {
    Card::named("lo")?.bring_up()
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

/// Puts a file in the place of what was there, a link included: where that leads may not be there yet.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("stead-new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

/// A network card, or what the kernel shows as one.
struct Card {
    name: [libc::c_char; NAME_BYTES_MAX],
    socket: OwnedFd,
}

impl Card {
    /// The first one by its name that the host has given. It is waited for.
    #[allow(clippy::disallowed_methods, reason = "the kernel tells nobody here that it has found a card")]
    fn find() -> io::Result<Card> {
        let until = Instant::now() + CARD_TIMEOUT;
        loop {
            let mut names: Vec<String> = fs::read_dir(CLASS)?
                .flatten()
                .filter(|entry| is_given(&entry.path()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            names.sort();
            if let Some(name) = names.first() {
                return Card::named(name);
            }
            if Instant::now() > until {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "there is no network card: the image's kernel may have none of its modules",
                ));
            }
            std::thread::sleep(CARD_INTERVAL);
        }
    }

    fn named(name: &str) -> io::Result<Card> {
        let mut bytes = [0; NAME_BYTES_MAX];
        if name.len() >= NAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Card { name: bytes, socket })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all of it may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn set(&self, what: libc::c_ulong, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(address);
        // SAFETY: the request is a whole one, and lives until the call is over. rustix has no such call.
        done(unsafe { libc::ioctl(self.socket.as_raw_fd(), what as _, &request) })
    }

    fn bring_up(&self) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: as above.
        done(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })
    }

    /// The route for all that has no other.
    fn lead_out_by(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut name = self.name;
        // SAFETY: all of it may be zero.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        route.rt_dev = name.as_mut_ptr();
        // SAFETY: as above; the name lives until the call is over, too.
        done(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCADDRT as _, &route) })
    }
}

fn done(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An address as the kernel takes it in requests: its family, a port, and its four bytes.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all of it may be zero.
    let mut bytes: libc::sockaddr = unsafe { std::mem::zeroed() };
    bytes.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in bytes.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    bytes
}

fn is_given(card: &Path) -> bool {
    let driver: io::Result<PathBuf> = fs::read_link(card.join("device/driver"));
    driver.is_ok_and(|driver| driver.ends_with(DRIVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_read_from_the_kernels_line() {
        assert_eq!(Network::read("console=ttyS0 stead.name=dev stead.gw=1.1.1.1"), Ok(None));
        let network = Network::read("stead.ip=10.7.0.2/30 quiet stead.dns=10.7.0.1 stead.gw=10.7.0.1")
            .unwrap()
            .unwrap();
        let (own, other) = (Ipv4Addr::new(10, 7, 0, 2), Some(Ipv4Addr::new(10, 7, 0, 1)));
        assert_eq!(network, Network { address: own, prefix: 30, gateway: other, resolver: other });
        for line in
            ["stead.ip=10.7.0.2", "stead.ip=10.7.0.2/33", "stead.ip=a/8", "stead.ip=1.2.3.4/8 stead.gw=x"]
        {
            assert!(Network::read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_prefix_is_a_mask() {
        let masks = [0, 8, 30, 32].map(mask).map(|mask| mask.to_string());
        assert_eq!(masks, ["0.0.0.0", "255.0.0.0", "255.255.255.252", "255.255.255.255"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_replaced_by_what_is_written() {
        let scratch = std::env::temp_dir().join(format!("stead-guest-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let path = scratch.join("resolv.conf");
        std::os::unix::fs::symlink("/nowhere/at-all", &path).unwrap();
        for content in ["one\n", "two\n", "two\n"] {
            replace(&path, content).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::remove_dir_all(&scratch).unwrap();
    }
}
