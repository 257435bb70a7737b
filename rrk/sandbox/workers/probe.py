"""Which layers of the jail work on this machine, found out by trying them from inside.

    for layer in probe():            # tries everything; takes about half a second
        layer.name, layer.active, layer.detail, layer.remedy

A worker is started and small programs try to break out of it; a layer is active if they could not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rrk.errors import RrkError
from rrk.sandbox.verdict import Job
from rrk.sandbox.workers.worker import Worker


@dataclass(frozen=True)
class Layer:
    """One layer; `remedy` is what would switch it on, empty if it is active."""

    name: str
    active: bool
    detail: str
    remedy: str = ""


# What may lie at the top: system folders, and the beginnings of the ways to an interpreter or a toolchain.
_ROOT = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "proc", "box", "tmp", "w", "var"}
_ROOT |= {"root", "home", "opt", "mnt", "media", "srv", "run", "work", "nix", "data"}

# What each layer must refuse: a program that ends well only if it was refused.
_TRIALS = {
    "network": (
        "no network: not even to this machine",
        """
import socket
for family in (socket.AF_INET, socket.AF_INET6):
    try:
        made = socket.socket(family)
        made.connect_ex(("127.0.0.1", 22))
        assert len(open("/proc/net/dev").readlines()) <= 3
    except OSError:
        pass
""",
    ),
    "privileges": (
        "no capabilities, no new privileges, no user namespaces",
        """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
assert status["NoNewPrivs"].strip() == "1"
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) != 0
""",
    ),
    "files": (
        "nothing of the host but system folders, read-only",
        f"""
import os
assert set(os.listdir("/")) <= {_ROOT!r}
for folder in ("/", "/usr", "/etc", "/dev"):
    try:
        open(folder + "/rrk_probe", "w")
        raise AssertionError(folder)
    except OSError:
        pass
""",
    ),
    "processes": (
        "sees its own processes only",
        """
import os
assert len([name for name in os.listdir("/proc") if name.isdigit()]) <= 3
""",
    ),
}


def probe() -> list[Layer]:
    """Try every layer."""
    try:
        worker = Worker()
    except RrkError as error:
        return [Layer("namespaces", False, str(error), _namespaces_remedy())]
    with worker:
        active = worker.layers.split("+")
        layers = [
            Layer("namespaces", True, "user, mount, process, network, IPC and host name of its own"),
            Layer("pivot_root", True, "a root of its own"),
            Layer(
                "seccomp",
                "seccomp" in active,
                "dangerous system calls are refused" if "seccomp" in active else "this kernel has no seccomp filters",
                "" if "seccomp" in active else "a kernel with CONFIG_SECCOMP_FILTER",
            ),
        ]
        if "cgroup" in active:
            layers.append(
                Layer("cgroup", True, "memory and processes are limited by the kernel, for all of a worker together")
            )
        else:
            layers.append(
                Layer(
                    "cgroup",
                    False,
                    "no control group may be made here; memory is watched every 40 ms instead, and that holds too",
                    "systemd-run --user --scope -p Delegate=yes rrk ...",
                )
            )
        for name, (detail, program) in _TRIALS.items():
            verdict = worker.python(Job("py", "", program, "pass"), mode="in_process")
            said = verdict.stderr.strip().rsplit("\n", 1)[-1]
            held = verdict.status == "OK"
            layers.append(
                Layer(
                    name,
                    held,
                    detail if held else f"{detail}: not so ({said})",
                    "" if held else "report this as a bug of rrk",
                )
            )
    return layers


def _namespaces_remedy() -> str:
    """What most likely keeps an ordinary user from making namespaces here."""
    for path, bad, remedy in (
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ):
        try:
            if Path(path).read_text().strip() == bad:
                return remedy
        except OSError:
            pass
    return (
        "in a container: --security-opt seccomp=unconfined --security-opt systempaths=unconfined; else Linux 5.14 or newer "
        "with user namespaces"
    )
