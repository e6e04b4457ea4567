//! The few Linux calls the generator needs, declared by hand so that the crate has no dependencies.
#![allow(non_camel_case_types, dead_code)]
use std::io;

pub type c_int = i32;

#[repr(C)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "x86"), repr(packed))]
#[derive(Clone, Copy)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SockaddrIn {
    pub family: u16,
    pub port_be: u16,
    pub addr_be: u32,
    pub zero: [u8; 8],
}
#[repr(C)]
struct Rlimit {
    cur: u64,
    max: u64,
}
#[repr(C)]
struct Linger {
    on: c_int,
    secs: c_int,
}

mod c {
    use super::*;
    unsafe extern "C" {
        pub fn socket(d: c_int, t: c_int, p: c_int) -> c_int;
        pub fn bind(fd: c_int, a: *const SockaddrIn, l: u32) -> c_int;
        pub fn connect(fd: c_int, a: *const SockaddrIn, l: u32) -> c_int;
        pub fn setsockopt(fd: c_int, level: c_int, name: c_int, v: *const u8, l: u32) -> c_int;
        pub fn getsockopt(fd: c_int, level: c_int, name: c_int, v: *mut u8, l: *mut u32) -> c_int;
        pub fn close(fd: c_int) -> c_int;
        pub fn recv(fd: c_int, p: *mut u8, n: usize, flags: c_int) -> isize;
        pub fn send(fd: c_int, p: *const u8, n: usize, flags: c_int) -> isize;
        pub fn epoll_create1(flags: c_int) -> c_int;
        pub fn epoll_ctl(ep: c_int, op: c_int, fd: c_int, ev: *mut EpollEvent) -> c_int;
        pub fn epoll_pwait2(
            ep: c_int,
            ev: *mut EpollEvent,
            max: c_int,
            ts: *const Timespec,
            sig: *const u8,
        ) -> c_int;
        pub fn clock_gettime(id: c_int, ts: *mut Timespec) -> c_int;
        pub fn alarm(secs: u32) -> u32;
        pub fn getrlimit(r: c_int, l: *mut Rlimit) -> c_int;
        pub fn setrlimit(r: c_int, l: *const Rlimit) -> c_int;
        pub fn sysconf(name: c_int) -> i64;
    }
}

pub const EPOLLIN: u32 = 1;
pub const EPOLLOUT: u32 = 4;
pub const EPOLLERR: u32 = 8;
pub const EPOLLHUP: u32 = 0x10;
pub const EPOLLRDHUP: u32 = 0x2000;
pub const ADD: c_int = 1;
pub const DEL: c_int = 2;
pub const MOD: c_int = 3;
const EAGAIN: i32 = 11;
const EINPROGRESS: i32 = 115;
const CLOCK_MONOTONIC: c_int = 1;
const CLOCK_PROCESS_CPUTIME_ID: c_int = 2;

fn clock(id: c_int) -> u64 {
    let mut t = Timespec { sec: 0, nsec: 0 };
    unsafe { c::clock_gettime(id, &mut t) };
    t.sec as u64 * 1_000_000_000 + t.nsec as u64
}
#[inline]
pub fn now_ns() -> u64 {
    clock(CLOCK_MONOTONIC)
}
pub fn self_cpu_ns() -> u64 {
    clock(CLOCK_PROCESS_CPUTIME_ID)
}
/// SIGALRM ends the process by its default action: the last resort that keeps a run bounded.
pub fn hard_stop_after(secs: u32) {
    unsafe { c::alarm(secs) };
}
pub fn clk_tck() -> u64 {
    unsafe { c::sysconf(2) as u64 }
}
pub fn page_size() -> u64 {
    unsafe { c::sysconf(30) as u64 }
}
pub fn raise_nofile(want: u64) -> u64 {
    let mut l = Rlimit { cur: 0, max: 0 };
    unsafe { c::getrlimit(7, &mut l) };
    if l.cur >= want {
        return l.cur;
    }
    let n = Rlimit {
        cur: want,
        max: want.max(l.max),
    };
    if unsafe { c::setrlimit(7, &n) } == 0 {
        return want;
    }
    let n = Rlimit {
        cur: l.max,
        max: l.max,
    };
    unsafe { c::setrlimit(7, &n) };
    l.max
}
pub fn epoll_create() -> io::Result<c_int> {
    let r = unsafe { c::epoll_create1(0x80000) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r)
    }
}
pub fn epoll_ctl(ep: c_int, op: c_int, fd: c_int, events: u32, data: u64) -> io::Result<()> {
    let mut ev = EpollEvent { events, data };
    let r = unsafe { c::epoll_ctl(ep, op, fd, &mut ev) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
pub fn epoll_wait(ep: c_int, evs: &mut [EpollEvent], timeout_ns: u64) -> usize {
    let ts = Timespec {
        sec: (timeout_ns / 1_000_000_000) as i64,
        nsec: (timeout_ns % 1_000_000_000) as i64,
    };
    let r = unsafe {
        c::epoll_pwait2(
            ep,
            evs.as_mut_ptr(),
            evs.len() as c_int,
            &ts,
            std::ptr::null(),
        )
    };
    if r < 0 { 0 } else { r as usize }
}

pub fn sockaddr(ip: [u8; 4], port: u16) -> SockaddrIn {
    SockaddrIn {
        family: 2,
        port_be: port.to_be(),
        addr_be: u32::from_ne_bytes(ip),
        zero: [0; 8],
    }
}
fn set_int(fd: c_int, level: c_int, name: c_int, v: c_int) {
    unsafe { c::setsockopt(fd, level, name, &v as *const c_int as *const u8, 4) };
}
/// Non-blocking connect from `src` to `dst`; `rcvbuf` 0 leaves the kernel's default.
pub fn connect_from(src: [u8; 4], dst: [u8; 4], port: u16, rcvbuf: c_int) -> io::Result<c_int> {
    let fd = unsafe { c::socket(2, 1 | 0x800 | 0x80000, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    set_int(fd, 6, 1, 1); // TCP_NODELAY
    if rcvbuf > 0 {
        set_int(fd, 1, 8, rcvbuf); // SO_RCVBUF
    }
    set_int(fd, 0, 24, 1); // IP_BIND_ADDRESS_NO_PORT
    let sa = sockaddr(src, 0);
    if unsafe { c::bind(fd, &sa, 16) } < 0 {
        let e = io::Error::last_os_error();
        close(fd);
        return Err(e);
    }
    let da = sockaddr(dst, port);
    if unsafe { c::connect(fd, &da, 16) } < 0 {
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(EINPROGRESS) {
            close(fd);
            return Err(e);
        }
    }
    Ok(fd)
}
pub fn so_error(fd: c_int) -> i32 {
    let mut v: c_int = 0;
    let mut l = 4u32;
    unsafe { c::getsockopt(fd, 1, 4, &mut v as *mut c_int as *mut u8, &mut l) };
    v
}
pub fn close(fd: c_int) {
    unsafe { c::close(fd) };
}
/// A connected loopback TCP pair in this process.
pub fn tcp_pair() -> io::Result<(c_int, c_int)> {
    use std::os::fd::IntoRawFd;
    let l = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let a = std::net::TcpStream::connect(l.local_addr()?)?;
    let b = l.accept()?.0;
    a.set_nodelay(true)?;
    Ok((a.into_raw_fd(), b.into_raw_fd()))
}
/// Close with a reset, so that a finished run leaves no TIME_WAIT sockets behind.
pub fn close_reset(fd: c_int) {
    let l = Linger { on: 1, secs: 0 };
    unsafe { c::setsockopt(fd, 1, 13, &l as *const Linger as *const u8, 8) };
    close(fd);
}
pub enum Io {
    N(usize),
    Again,
    Gone,
}
#[inline]
pub fn recv(fd: c_int, buf: &mut [u8]) -> Io {
    let r = unsafe { c::recv(fd, buf.as_mut_ptr(), buf.len(), 0) };
    if r > 0 {
        Io::N(r as usize)
    } else if r == 0 {
        Io::Gone
    } else if io::Error::last_os_error().raw_os_error() == Some(EAGAIN) {
        Io::Again
    } else {
        Io::Gone
    }
}
#[inline]
pub fn send(fd: c_int, buf: &[u8]) -> Io {
    let r = unsafe { c::send(fd, buf.as_ptr(), buf.len(), 0x4000) };
    if r >= 0 {
        Io::N(r as usize)
    } else if io::Error::last_os_error().raw_os_error() == Some(EAGAIN) {
        Io::Again
    } else {
        Io::Gone
    }
}
