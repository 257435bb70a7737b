"""Programs that are judged by what they print or return: verdicts, limits, checkers, and what never enters a jail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest

from rrk.cases import Case, CaseSet, Rule
from rrk.errors import RrkError
from rrk.sandbox import Job, Judge
from rrk.sandbox.languages import toolchains
from rrk.sandbox.workers.worker import Worker
from tests.conftest import ROOT
from tests.sandbox import caseset

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)

NOBODY = 12345
ADD = "a, b = map(int, input().split())\nprint(a + b)\n"
SUMS = [("1 2\n", "3\n"), ("5 6\n", "11\n"), ("0 0\n", "0\n"), ("7 -7\n", "0\n")]


def stdin(pairs=SUMS, rule="lines", **more) -> CaseSet:
    return CaseSet("stdin", tuple(Case(*pair) for pair in pairs), Rule(rule), **more)


def call(*pairs, rule="equal", **more) -> CaseSet:
    return CaseSet("call", tuple(Case(json.dumps(a), json.dumps(b)) for a, b in pairs), Rule(rule), **more)


def python(program: str, suite: CaseSet, **more) -> Job:
    return Job("py", "", program, "", full=True, case_set=suite, **more)


@pytest.fixture(scope="module")
def judge():
    with Judge(jobs=2, all_tests=True) as found:
        yield lambda *jobs: list(found.judge(jobs))


def behaved(rows: list[dict], languages: set[str]) -> None:
    assert [row for row in rows if row["wrong"]] == []
    assert {row["language"] for row in rows} == languages
    many = [row for row in rows if row["behaviour"] == "many"]
    assert all(row["tests_passed"] == row["tests_total"] >= 20 and row["pass_share"] == 1 for row in many)
    wrong = next(row for row in rows if row["behaviour"] == "wrong")
    assert (wrong["tests_passed"], wrong["failed_case"]["case"], wrong["failed_case"]["got"]) == (1, 1, "4\n")


@pytest.mark.parametrize("language", caseset.PROGRAMS)
def test_every_behaviour_in_every_language_gets_its_verdict(language):
    if lacking := toolchains.load(language).missing():
        pytest.skip("; ".join(lacking))
    wanted = list(caseset.jobs(language))
    with Judge(jobs=2) as judge:
        verdicts = list(judge.judge(job for _, job in wanted))
    behaved(
        [
            {"language": language, "behaviour": b, **v.fields(), "wrong": caseset.wrong(b, v)}
            for (b, _), v in zip(wanted, verdicts, strict=True)
        ],
        {language},
    )


def test_the_same_as_an_ordinary_user_without_control_groups():
    system = "/usr/bin/python3"
    if os.geteuid() != 0 or not shutil.which("setpriv") or not os.path.exists(system):
        pytest.skip("needs root, setpriv and a python that anybody can run")
    if subprocess.run([system, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip(f"{system} is older than 3.11")
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    if subprocess.run([*user, "ls", str(ROOT / "rrk")], capture_output=True).returncode:
        pytest.skip("this checkout cannot be read by others")
    languages = ["py", "cpp", "sh", "lua", "pl"]
    done = subprocess.run(
        [*user, system, "-m", "tests.sandbox.caseset", *languages], capture_output=True, cwd=ROOT, timeout=280,
        env={**os.environ, "HOME": "/tmp", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    there = {language for language in languages if f"{language}: ".encode() not in done.stderr}
    assert {"py", "sh"} <= there
    behaved(rows, there)
    assert {row["sandbox"] for row in rows} == {"namespaces+pivot_root+seccomp+watchdog"}


def test_shares_count_every_case_and_the_first_failure_is_told(judge):
    most = "a, b = map(int, input().split())\nprint(a + b if a else 'zero')\n"
    right, three, none, broken = judge(
        python(ADD, stdin()), python(most, stdin()), python("print(1)", stdin()), python("def (", stdin())
    )
    assert (right.passed, right.tests_passed, right.pass_share, right.integrity) == (True, 4, 1.0, "outputs")
    assert (three.passed, three.tests_passed, three.tests_total, three.pass_share) == (False, 3, 4, 0.75)
    assert three.failed_case == {"case": 2, "input": "0 0\n", "expected": "0\n", "got": "zero\n"}
    assert (none.pass_share, none.reason) == (0.0, "wrong_answer")
    assert (broken.status, broken.pass_share) == ("SyntaxError", 0.0)


@pytest.mark.parametrize("held", [0, 4])
def test_the_default_stops_at_the_first_failure_whatever_would_come_next(held):
    """Also where the failure is not told at once, for outcomes are told in parcels."""
    slow = "a, b = map(int, input().split())\nprint(a + b if a else 'wrong')\nwhile b: pass\n"
    then = [("0 0\n", "0\n"), *[("1 2\n", "3\n")] * 50]
    with Judge(jobs=1) as judge:
        began = time.monotonic()
        (found,) = judge.judge([python(slow, stdin([("7 0\n", "7\n")] * held + then))])
        assert time.monotonic() - began < 2.5  # an endless one has 3 s of CPU
    assert (found.reason, found.tests_passed, found.pass_share) == ("wrong_answer", held, None)
    assert found.failed_case["case"] == held


def test_with_all_tests_cases_that_never_end_are_cut_short(judge):
    (found,) = judge(python("while True: pass", stdin(SUMS * 2), timeout=0.4))
    assert (found.status, found.pass_share, found.tests_total) == ("Timeout", 0.0, 8)
    assert found.time < 3 * 0.6 + 5 * 0.15  # three in full, the others a tenth


def test_nothing_that_is_expected_can_be_found_in_the_jail(judge):
    """A program looks for the expected outputs in all that it can read: its own memory, files, descriptors, environment."""
    secret = "xylophone-4711"
    search = f"""
import os
needle = "-".join(["{secret[:9]}", "{secret[10:]}"]).encode()
found = []
for number in os.listdir("/proc"):
    if not number.isdigit(): continue
    for name in ("environ", "cmdline", "maps"):
        try: found += [name] if needle in open(f"/proc/{{number}}/{{name}}", "rb").read() else []
        except OSError: pass
try:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.readlines():
            span, rights = line.split()[:2]
            low, high = (int(x, 16) for x in span.split("-"))
            if "w" not in rights: continue
            memory.seek(low)
            # Our own needle is there too, but not with the line that ends an expected output.
            if needle + bytes([10, 81]) in memory.read(high - low): found.append(span)
except PermissionError:
    pass
for folder, _, files in os.walk("/box"):
    for name in files:
        found += [name] if needle in open(os.path.join(folder, name), "rb").read() else []
for fd in range(3, 300):
    try: found += [fd] if needle in os.pread(fd, 1 << 20, 0) else []
    except OSError: pass
print("found" if found else "nothing", found)
"""
    (found,) = judge(python(search, stdin([("", "nothing []\n"), ("", f"{secret}\nQ")], rule="exact")))
    assert found.tests_passed == 1, found
    assert found.failed_case["got"] == "nothing []\n"


def test_functions_are_called_and_values_compared_as_data(judge):
    cases = [([[1, 2]], [2, 1]), ([[]], [])]
    solution = "class Solution:\n    def back(self, xs: List[int]) -> List[int]:\n        return xs[::-1]\n"
    liar = "class L(list):\n    __eq__ = lambda s, o: True\ndef back(xs): return L([9])\n"
    found = judge(
        python(solution, call(*cases, prelude="from typing import *"), entry_point="back"),
        python("def back(xs):\n    print('noise')\n    return tuple(reversed(xs))\n", call(*cases), entry_point="back"),
        python(liar, call(*cases), entry_point="back"),
        python("def back(xs): return set(xs)\n", call(*cases), entry_point="back"),
        python("def back(xs): return set(xs)\n", call(*cases, rule="unordered"), entry_point="back"),
        python(
            "import os\ndef back(xs):\n    os.write(3, b'vtrue')\n    os._exit(0)\n", call(*cases), entry_point="back"
        ),
        python("def other(xs): return xs\n", call(*cases), entry_point="back"),
        python("def back(xs): raise ValueError\n", call(*cases), entry_point="back"),
        python("def back(xs):\n    xs.append(xs)\n    return xs\n", call(*cases), entry_point="back"),
        python("def back(xs): exit(0)\n", call(*cases), entry_point="back"),
    )
    assert [v.passed for v in found] == [True, True, False, False, True, False, False, False, False, False]
    assert found[2].failed_case["got"] == "[9]"
    assert "NameError: name 'back' is not defined" in found[6].stderr
    assert found[9].reason == "wrong_answer"
    (other,) = judge(Job("js", "", "x", "", full=True, entry_point="f", case_set=call(*cases)))
    assert (other.passed, other.status) == (None, "NoToolchain")


def test_a_checker_decides_in_a_jail_of_its_own(judge):
    """Any pair that sums to the input is right; the checker leaves a file behind that no candidate may find."""
    check = (
        "import os\n"
        "def check(input, expected, output):\n"
        "    open('/tmp/checked', 'w').write(expected)\n"
        "    a, b = map(int, output.split())\n"
        "    return a + b == int(input)\n"
    )
    suite = stdin([("5\n", "2 3\n"), ("9\n", "4 5\n")], checker=check)
    look = "import os\nn = int(input())\nprint(len(os.listdir('/tmp')), n)\n"
    found = judge(
        python("n = int(input())\nprint(1, n - 1)\n", suite),
        python("n = int(input())\nprint(n, n)\n", suite),
        python("print('no numbers')", suite),  # the checker fails on it: not accepted, and no failure of ours
        python("print('1 ' + '9' * 100000)", suite),
        python(look, suite),  # 0 files: 0 + n is right
    )
    assert [v.pass_share for v in found] == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_ends_as_an_interpreter_has_them(judge):
    """Threads are waited for, atexit is called, a status is the process's, main guards hold, bytes and big numbers pass."""
    programs = {
        "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()\n": True,
        "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))\n": True,
        "def main():\n    print(sum(map(int, open(0).read().split())))\nif __name__ == '__main__':\n    main()\n": True,
        "import sys\nfor line in sys.stdin.buffer:\n    sys.stdout.buffer.write(b'%d' % sum(map(int, line.split())))\n": True,
        "print(sum(map(int, input().split())))\nraise SystemExit('sorry')\n": False,
        "import os\nif os.fork(): os.wait(); print(sum(map(int, input().split())))\n": True,
        "x = 10 ** 9000\nstr(x)\nprint(sum(map(int, input().split())))\n": True,
        "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and f(n - 1)\nf(50000)\n" + ADD: True,
        "print(sum(map(int, input().split())))\n1 / 0\n": False,
        # What nobody flushed: of the stream that was replaced, of another one over the same descriptor.
        "import io, sys\nprint(sum(map(int, input().split())))\nsys.stdout = io.StringIO()\nprint('not this')\n": True,
        "import os\nout = os.fdopen(1, 'w')\nout.write(str(sum(map(int, input().split()))))\n": True,
        "write = open(1, 'w').write\nwrite(str(sum(map(int, input().split()))))\n": True,
    }
    found = judge(*[python(program, stdin()) for program in programs])
    assert [v.passed for v in found] == list(programs.values()), list(found)


def test_files_of_one_case_are_gone_for_the_next(judge):
    keep = "import os\nprint(os.path.exists('seen'))\nopen('seen', 'w').close()\n"
    (found,) = judge(python(keep, stdin([("1", "False"), ("2", "False"), ("3", "False")])))
    assert found.passed


def test_nothing_of_one_case_is_left_for_the_next(judge):
    """Whatever a case changes or starts, the next one finds itself the first: names, modules, builtins, processes, numbers."""
    leave = (
        "import builtins, os, sys, time\n"
        "import random as r\n"
        "clean = not hasattr(builtins, 'seen') and not hasattr(r, 'seen') and 'left' not in globals() and __name__ == '__main__'\n"
        "alone = [n for n in os.listdir('/proc') if n.isdigit() and n != '1' and int(n) not in (os.getpid(), os.getppid())]\n"
        "builtins.seen = r.seen = left = True\n"
        "sys.setrecursionlimit(77)\n"
        "if input() != 'stay' and not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork(): time.sleep(60)\n"
        "    os._exit(0)\n"
        "print(clean, alone)\n"
    )
    (found,) = judge(python(leave, stdin([(word, "True []") for word in ("stay", "go", "stay", "go", "go", "stay")])))
    assert found.passed, found


def test_every_run_draws_its_own_random_numbers():
    """What is forked is a copy, and would go on with the same numbers; a program's text says whether it draws any."""
    drawn = {
        "import random\nprint(random.random())": "",
        "print(randrange(10 ** 9))": "from random import *",
        "import statistics\nprint(statistics.NormalDist().samples(1))": "",
    }
    jobs = [python(text, stdin([("", "?")] * 3, prelude=prelude)) for text, prelude in drawn.items()]
    with Judge(jobs=1, outcomes=True) as judge:
        for found in judge.judge(jobs):
            assert len(set(found.evidence["outputs"])) == 3, found
    prints = "import random\nprint(random.random())\ndef f(): return 1\n"
    with Judge(jobs=1) as judge:
        texts = {
            found.stdout
            for found in judge.judge([Job("py", "", prints + "#" * n, "assert f() == 1") for n in range(3)])
        }
    assert len(texts) == 3


def test_a_program_that_harms_the_process_which_forked_it_is_judged_by_what_it_prints(judge):
    """Killed, interrupted or stopped: the verdict is its own, and the next program's as if nothing had been."""
    for_it = {
        "os.kill(os.getppid(), signal.SIGKILL)": True,
        "os.kill(os.getppid(), signal.SIGINT)": True,
        "time.sleep(0.2); os.kill(os.getppid(), signal.SIGKILL)": True,
        "os.kill(0, signal.SIGKILL)": False,
        "os.kill(-1, signal.SIGKILL)": False,  # in the end there is nobody to be killed, which is an error
        "os.kill(os.getppid(), signal.SIGSTOP)": None,  # it is waited for, as for any sleeper
    }
    # The one that is waited for has half a second of wall time a case.
    brief = CaseSet("stdin", tuple(Case(*pair, timeout=0.04) for pair in SUMS[:2]), Rule("lines"))
    jobs = [
        python(
            f"import os, signal, time\n{ADD.strip()}\nimport sys; sys.stdout.flush()\n{way}\n",
            brief if known is None else stdin(),
            timeout=0.2,
        )
        for way, known in for_it.items()
    ]
    found = judge(*jobs, python(ADD, stdin()))
    assert [v.passed for v in found[:-2]] == [way for way in for_it.values() if way is not None], found
    assert found[-2].passed in (True, False)
    assert found[-1].pass_share == 1.0


def test_a_prelude_is_known_to_the_program_and_none_of_its_harm_is_lost(judge):
    """It runs before the program, once or once a case; what it raises is the case's failure, as if it stood in the program."""
    right, failing, slow = judge(
        python("print(twice(int(input())))", stdin([("1", "2"), ("4", "8")], prelude="def twice(n): return 2 * n")),
        python("print(1)", stdin([("1", "1"), ("4", "1")], prelude="raise ValueError('no')")),
        python("print(1)", stdin([("1", "1"), ("4", "1")], prelude="while True: pass"), timeout=0.3),
    )
    assert (right.passed, failing.reason, slow.status) == (True, "exit", "Timeout")
    assert "ValueError: no" in failing.stderr


def test_memory_and_output_limits_are_a_case_s(judge):
    grow = "n = int(input())\nx = bytearray(n << 20)\nprint(len(x) >> 20)\n"
    long = "n = int(input())\nprint('x' * n)\n"
    big, wide = judge(
        python(grow, stdin([("10", "10"), ("3000", "3000"), ("20", "20")]), memory_mb=256),
        python(long, stdin([("5", "xxxxx"), (str(6 << 20), "x" * (6 << 20)), ("9000000", "x")])),
    )
    assert (big.status, big.tests_passed) == ("MemoryLimit", 2)
    # More than the usual is granted where more is expected.
    assert (wide.tests_passed, wide.failed_case["case"]) == (2, 2)
