"""The kernel calls that make a jail, by ctypes; used inside a worker's own process (rrk/sandbox/jail/main.py) only.

    pid = clone(seccomp.NAMESPACES)      # 0 in the child, which is process 1 of its own world
    build_root(mounts)                   # pivot_root to a minimal read-only file system
    become(1000); lock_down()            # another user, no way back to privileges, seccomp
    drop_capabilities()                  # in each candidate: process 1 itself still has to mount

Linux 5.14 or newer, x86_64 or aarch64; works without any privilege. Every function raises OSError with the name of what
failed. Nothing here knows about jobs or verdicts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import stat
import struct
from collections.abc import Iterable, Sequence

from rrk.sandbox.jail import seccomp

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 22, 38, 36

UID = 1000  # of candidates, inside
BOX = "/box/1"  # where a candidate's private tmpfs is mounted
WORK = BOX + "/w"

# PyDLL holds the GIL: a worker has one thread, and a clone must not run Python code of its own in between.
_libc = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int = 0, what: str = "prctl") -> int:
    unsigned = ctypes.c_ulong
    return _check(_libc.prctl(option, unsigned(value), unsigned(0), unsigned(0), unsigned(0)), what)


def clone(flags: int) -> int:
    """fork() into new namespaces. unshare() would leave the caller itself outside of its own process namespace."""
    if seccomp.MACHINE not in seccomp.ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call numbers are known for {seccomp.MACHINE}")
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    long = ctypes.c_long
    call = long(seccomp.number(seccomp.CLONE))
    pid = _libc.syscall(call, long(flags | signal.SIGCHLD), long(0), long(0), long(0), long(0))
    code = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone into new namespaces: {os.strerror(code)}")
    return pid


def map_users(pid: int) -> bool:
    """Give the namespace of a fresh child its users, from outside. True if candidates become another user than ours.

    As root, our root sets the jail up and candidates run as nobody; an ordinary user can only be mapped to itself.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            _write(f"/proc/{pid}/uid_map", f"0 0 1\n{UID} 65534 1\n")
            _write(f"/proc/{pid}/gid_map", f"0 {gid} 1\n{UID} 65534 1\n")
            return True
        except OSError:
            pass  # not quite root (a container's): go on as anybody else
    _write(f"/proc/{pid}/setgroups", "deny")
    if not _written(f"/proc/{pid}/uid_map"):
        _write(f"/proc/{pid}/uid_map", f"{UID} {uid} 1\n")
    _write(f"/proc/{pid}/gid_map", f"{UID} {gid} 1\n")
    return False


def _written(path: str) -> bool:
    with open(path) as file:
        return bool(file.read().strip())


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    def encode(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    result = _libc.mount(encode(source), encode(target), encode(kind), ctypes.c_ulong(flags), encode(options))
    _check(result, f"mount {target}")


def umount(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def _read_only(target: str, device: bool = False) -> None:
    """Make a bind mount and all below it read-only; flags that the host has locked stay."""
    flags = 0x1 | 0x2 | (0x8 if device else 0x4)  # RDONLY, NOSUID, NOEXEC or NODEV
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
    at_recursive, at_fdcwd = 0x8000, -100
    result = _libc.syscall(
        ctypes.c_long(442),
        ctypes.c_int(at_fdcwd),
        os.fsencode(target),
        ctypes.c_uint(at_recursive),
        attributes,
        ctypes.c_size_t(32),
    )
    _check(result, f"mount_setattr {target}")


# Of /etc a program sees what tools need to start, never users, keys or hosts.
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mono", "php", "R", "racket", "ghc")
_ETC_PREFIXES = ("java-", "openjdk", "erlang", "elixir", "ocaml", "lua")
_ETC_FILES = {
    "passwd": f"root:x:0:0::/nonexistent:/bin/false\nbox:x:{UID}:{UID}::{WORK}:/bin/sh\n",
    "group": f"root:x:0:\nbox:x:{UID}:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def build_root(mounts: Iterable[str]) -> None:
    """Leave the host's file system for a small read-only one: system folders, `mounts`, /dev's harmless devices, /proc."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    wanted = [path for path in _SYSTEM if os.path.exists(path)]
    for path in map(os.path.realpath, mounts):
        if os.path.exists(path) and not any(path == w or path.startswith(w + "/") for w in wanted):
            wanted.append(path)
    etc = [
        f"/etc/{name}" for name in sorted(os.listdir("/etc")) if name in _ETC or name.startswith(_ETC_PREFIXES)
    ]  # fmt: skip
    sources = [*wanted, *etc, "/dev"]
    new = next(
        place
        for place in ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp", "/var")
        if os.path.isdir(place) and not any((source + "/").startswith(place + "/") for source in sources)
    )
    mount("tmpfs", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,nr_inodes=4k,mode=755")
    for path in [*wanted, *etc]:
        _show(path, new)
    for name, text in _ETC_FILES.items():
        with open(f"{new}/etc/{name}", "w") as file:
            file.write(text)
    os.makedirs(f"{new}/dev", exist_ok=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        if os.path.exists(f"/dev/{name}"):
            _bind(f"/dev/{name}", f"{new}/dev/{name}", device=True)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{new}/dev/{name}")
    os.makedirs(f"{new}/proc")
    os.makedirs(new + BOX)
    # One sized tmpfs a candidate holds all that it may write; these names lead into it.
    os.makedirs(f"{new}/var", exist_ok=True)
    for name, target in (("tmp", "tmp"), ("w", "w"), ("var/tmp", "tmp"), ("dev/shm", "shm")):
        if not os.path.isdir(f"{new}/{name}"):  # unless a folder below it is to be shown; TMPDIR leads there too
            os.symlink(f"{BOX}/{target}", f"{new}/{name}")
    try:
        mount("proc", f"{new}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        raise OSError(
            error.errno, "mount /proc: refused, because parts of this machine's own /proc are hidden"
        ) from None
    os.chdir(new)
    pivot_root = ctypes.c_long(seccomp.number(seccomp.REFUSED["pivot_root"]))
    _check(_libc.syscall(pivot_root, b".", b"."), "pivot_root")
    umount(".")
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _show(path: str, new: str) -> None:
    if os.path.islink(path) and path.startswith(("/bin", "/sbin", "/lib")):
        os.symlink(os.readlink(path), new + path)
        return
    missing = []
    parent = os.path.dirname(new + path)
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(missing):
        os.mkdir(folder)
    try:
        if os.path.islink(path):  # /etc/localtime and the like point into /usr
            os.symlink(os.readlink(path), new + path)
        else:
            _bind(path, new + path)
    finally:
        for folder in missing:
            # Somebody's home lies on the way to a toolchain: one may pass, but not look around. /etc is no secret.
            os.chmod(folder, 0o755 if folder == new + "/etc" else 0o111)


def _bind(source: str, target: str, device: bool = False) -> None:
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)
    _read_only(target, device)


def fresh_box(size_mb: int) -> None:
    """Mount a candidate's private tmpfs; `size_mb` bounds everything that it writes, /tmp and /dev/shm included."""
    mount("tmpfs", BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size_mb}m,nr_inodes=64k,mode=755")
    os.mkdir(WORK, 0o755)
    os.mkdir(BOX + "/tmp", 0o777)
    os.mkdir(BOX + "/shm", 0o777)


def become(uid: int) -> None:
    """Turn from the jail's root into `uid`, keeping the capabilities over the jail's own namespaces."""
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:
            break  # past the last one that this kernel knows
    if os.getuid() != uid:
        prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_KEEPCAPS, 0)
        _capset(2**64 - 1, 2**64 - 1)


_NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0), bytes(24)


def drop_capabilities() -> None:
    _check(_libc.capset(*_NO_CAPABILITIES), "capset")


def _capset(effective: int, permitted: int) -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    if permitted:
        data = ctypes.create_string_buffer(24)
        _check(_libc.capget(header, data), "capget")
        low = struct.unpack("=6I", data.raw)
        permitted = low[1] | low[4] << 32
        effective = permitted
    mask = 0xFFFFFFFF
    data = struct.pack("=6I", effective & mask, permitted & mask, 0, effective >> 32, permitted >> 32, 0)  # type: ignore[assignment]
    _check(_libc.capset(header, data), "capset")


def lock_down(deny_memfd: bool) -> bool:
    """No new privileges, no inspection by others, and the seccomp filter; False if this kernel has no seccomp."""
    prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    prctl(PR_SET_DUMPABLE, 0)
    program = seccomp.program(deny_memfd)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    set_mode_filter = 1
    unsigned = ctypes.c_ulong
    call = ctypes.c_long(seccomp.number(seccomp.SECCOMP))
    result = _libc.syscall(call, unsigned(set_mode_filter), unsigned(0), fprog)
    if result < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):
        return False
    _check(result, "seccomp")
    return True


def limit(values: Sequence[tuple[int, int]]) -> None:
    """Set resource limits, hard as soft; one that is already lower stays."""
    for which, value in values:
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


def close_all_but(keep: Sequence[int]) -> None:
    """Close every descriptor above 2 except these."""
    start = 3
    for number in sorted(keep):
        if number > start:
            _libc.close_range(ctypes.c_uint(start), ctypes.c_uint(number - 1), ctypes.c_int(0))
        start = number + 1
    _libc.close_range(ctypes.c_uint(start), ctypes.c_uint(0xFFFFFFFF), ctypes.c_int(0))
