"""The system calls that no candidate may make: their numbers, and the seccomp filter that refuses them.

program(deny_memfd=True)     # classic BPF, for kernel.lock_down
number(CLONE)                # of a call, on this machine
"""

from __future__ import annotations

import errno
import os
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = NEWUSER | NEWPID | NEWNS | NEWNET | NEWIPC | NEWUTS
_ALL_NEW = NAMESPACES | NEWCGROUP | 0x00000080  # and time namespaces

MACHINE = os.uname().machine

# name: (x86_64, aarch64); None where the machine has no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
CLONE, CLONE3, SOCKET, SECCOMP, MEMFD = (56, 220), (435, 435), (41, 198), (317, 277), (319, 279)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def number(call: tuple[int, int] | tuple[int | None, int | None]) -> int:
    index, _ = ARCHITECTURES[MACHINE]
    number = call[index]
    assert number is not None
    return number


def program(deny_memfd: bool) -> bytes:
    """The filter in classic BPF: a list of refused calls. mount(2) is not in it: it takes a capability that nobody has."""
    load, jump_eq, jump_ge, jump_set, give_back = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050000
    index, audit = ARCHITECTURES[MACHINE]

    def op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, k)

    out = [op(load, 4), op(jump_eq, audit, 1, 0), op(give_back, kill), op(load, 0)]
    if index == 0:  # x32 would be a second door to every call
        out += [op(jump_ge, 0x40000000, 0, 1), op(give_back, refuse | errno.ENOSYS)]
    for numbers in REFUSED.values():
        if (refused := numbers[index]) is not None:
            out += [op(jump_eq, refused, 0, 1), op(give_back, refuse | errno.EPERM)]
    # glibc falls back to clone(), whose flags can be seen.
    out += [op(jump_eq, CLONE3[index], 0, 1), op(give_back, refuse | errno.ENOSYS)]
    if deny_memfd:
        # Memory that no process's size shows; only a memory cgroup would bound it.
        out += [op(jump_eq, MEMFD[index], 0, 1), op(give_back, refuse | errno.ENOSYS)]
    out += [
        op(jump_eq, CLONE[index], 0, 3),
        op(load, 16),  # low half of the first argument
        op(jump_set, _ALL_NEW & ~0xFF, 0, 5),
        op(give_back, refuse | errno.EPERM),
        op(jump_eq, SOCKET[index], 0, 3),
        op(load, 16),
        op(jump_eq, 1, 1, 0),  # AF_UNIX only
        op(give_back, refuse | errno.EAFNOSUPPORT),
        op(give_back, allow),
    ]
    return b"".join(out)
