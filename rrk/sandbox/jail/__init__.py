"""The jail: namespaces, control groups, seccomp, limits, and process 1, which forks candidates, watches and kills them.

Called by workers/process.py, by starting an interpreter that runs `main`; never imported there but for `box`, the words for
a command, its limits and its outcome. May import the standard library, this room and inside/.
Must never be in it: tests' texts, expected outputs, what a pass is. It tells what it saw; judge/ decides what that means.

main        the keeper outside of the jail, and how process 1 gets into it
fork_server process 1 at work: boxes, children with limits; case_runs: one program on many inputs; watch: what they use
kernel      the system calls; seccomp: those that no candidate may make; cgroups: control groups
"""
