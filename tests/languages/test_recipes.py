"""Recipes: every language's self tests get their verdicts, and a pass needs its proof (in a plain box; the jail has its own tests)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rrk.sandbox.jail.box import Outcome, RunSpec
from rrk.sandbox.languages import recipes, toolchains
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.verdict import Job
from tests.languages import known
from tests.languages.plainbox import PlainBox

ALL = {code: t for code, t in toolchains.all().items() if t.judge == "recipe"}
CASES = [pytest.param(code, test, id=f"{code}-{test.name}") for code, t in ALL.items() for test in t.selftests]


def usable(code: str) -> Toolchain:
    toolchain = ALL[code]
    if lacking := toolchain.missing():
        pytest.skip(f"{code}: {'; '.join(lacking)}")
    return toolchain


def judged(toolchain, job):
    with PlainBox() as box:
        return recipes.judge(toolchain, job, box)


@pytest.fixture(scope="module")
def self_test_verdicts():
    """Verdicts on all self tests, two at a time: most of their time is compilers and time limits."""
    with ThreadPoolExecutor(2) as pool:
        # A program that must time out need not take the whole limit to do so.
        jobs = {
            (code, test.name): Job(
                code,
                test.prompt,
                test.completion,
                test.tests,
                test.entry_point,
                timeout=1.0 if test.status == "Timeout" else None,
            )
            for code, toolchain in ALL.items()
            if not toolchain.missing()
            for test in toolchain.selftests
        }
        yield {key: pool.submit(judged, ALL[key[0]], job) for key, job in jobs.items()}


@pytest.mark.parametrize(("code", "test"), CASES)
def test_self_tests_get_their_verdicts(code, test, self_test_verdicts):
    usable(code)
    verdict = self_test_verdicts[code, test.name].result()
    assert verdict.status == test.status, verdict
    assert verdict.passed == (test.status == "OK")
    if verdict.passed:
        assert verdict.exit_code == 0, "the control's failure is ours, not the program's"
        assert verdict.integrity == "proof+control"


class Scripted:
    """A box that gives prepared outcomes; `proof` may use the secrets that the judge wrote into the files."""

    def __init__(self, **outcome):
        self.outcome, self.files, self.specs = outcome, {}, []

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def run(self, spec: RunSpec) -> Outcome:
        self.specs.append(spec)
        lines = self.files["main.sh"].decode().splitlines()
        secrets = [line.split()[3].encode() for line in lines if line.startswith("builtin printf")]
        outcome = Outcome(**{k: v for k, v in self.outcome.items() if k != "proof"})
        outcome.proof = b"".join(
            {"ended": secrets[0], "survived": secrets[1]}.get(p, p.encode()) for p in self.outcome.get("proof", [])
        )
        return outcome


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        ({"exit_code": 1, "proof": ["ended"]}, "OK", None),
        ({"exit_code": 0}, "Tampered", "early_exit"),
        ({"exit_code": 0, "proof": ["ended"]}, "Tampered", "control"),
        ({"exit_code": 0, "proof": ["ended", "survived"]}, "Tampered", "control"),
        ({"exit_code": 1, "proof": ["ended", "survived"]}, "Tampered", "control"),
        ({"exit_code": 1, "proof": ["0" * 32]}, "Tampered", "forged"),
        ({"exit_code": 1}, "Exception", "exit"),
        ({"signal": 11}, "Exception", "signal_11"),
        ({"signal": 9, "timed_out": "cpu", "proof": ["ended"]}, "Timeout", "cpu"),
        ({"signal": 9, "timed_out": "cpu", "out_of_memory": True}, "MemoryLimit", "memory"),
        ({"signal": 9, "output_limit": True}, "OutputLimit", "output"),
        ({"error": "no space left"}, "SandboxError", "box"),
    ],
)
def test_only_the_right_secret_at_the_right_time_passes(outcome, status, reason):
    toolchain = ALL["sh"]
    if toolchain.missing():
        pytest.skip("no bash")
    verdict = recipes.judge(toolchain, Job("sh", "", "true\n", "true\n"), Scripted(**outcome))
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.passed is {"OK": True, "SandboxError": None}.get(status, False)


ENDLESS_AGAIN = """
fn runs() -> usize { let n = std::fs::read("runs").map_or(0, |text| text.len()); std::fs::write("runs", vec![b'x'; n + 1]).unwrap(); n }
fn f() -> bool { while runs() > 0 {} true }
"""


def test_a_program_that_does_not_end_when_it_runs_again_has_not_tampered():
    tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn test_f() { assert!(f()); }\n}\n"
    job = Job("rs", "fn main() {}\n", ENDLESS_AGAIN, tests, timeout=1.0)
    assert judged(usable("rs"), job).status == "Timeout"


def test_secrets_are_new_for_every_job():
    toolchain = usable("sh")
    job = Job("sh", "", "true\n", "true\n")
    plans = [recipes.assemble(toolchain, job) for _ in range(20)]
    assert len({secret for plan in plans for secret in (plan.ended, plan.survived)}) == 40


def test_a_program_that_stands_alone_loses_the_tests_brace():
    toolchain = usable("sh")
    tests = "}\nset -e\n[[ $(add 1 2) = 3 ]]\n"
    full = Job("sh", "add() {\n", "add() {\n echo $(($1 + $2))\n}\n", tests, full=True)
    assert judged(toolchain, full).status == "OK"
    assert judged(toolchain, replace(full, full=False, completion=" echo $(($1 + $2))\n")).status == "OK"


def test_limits_of_a_job_replace_the_language_s(tmp_path):
    box = Scripted(exit_code=1)
    recipes.judge(usable("sh"), Job("sh", "", "true\n", "true\n", timeout=1.5, memory_mb=77), box)
    limits = box.specs[-1].limits
    assert (limits.cpu_s, limits.memory_mb) == (1.5, 77)
    assert limits.wall_s > 4 * 1.5


def test_tests_without_a_place_for_the_proof_give_no_label(tmp_path):
    text = ALL["sh"].source.read_text().replace("[end]\n", "[end]\nplace = ['^NOWHERE$']\n")
    (tmp_path / "sh.toml").write_text(text)
    toolchain = toolchains.load("sh", [tmp_path])
    if toolchain.missing():
        pytest.skip("no bash")
    verdict = judged(toolchain, Job("sh", "", "true\n", "true\n"))
    assert (verdict.passed, verdict.status) == (None, "SandboxError")
    assert "a pass could not be proven" in verdict.stderr


def test_programs_that_are_not_utf8_are_judged_too():
    toolchain = usable("sh")
    assert judged(toolchain, Job("sh", "", "echo '\udcff'\n", "true\n")).status == "OK"


@pytest.mark.parametrize("code", ["cpp", "java", "js", "ts", "php", "sh", "rs"])
def test_programs_known_to_pass_do(code, shared):
    toolchain = usable(code)
    # bash 5.2 cannot parse two of the sh programs and leaves with 0 nevertheless; one rs program depends on a HashMap's order.
    wrong = {"HumanEval_83_starts_one_ends", "HumanEval_91_is_bored", "mbpp_130_max_occurrences"}
    rows = [k for k in known.gold(shared) if k.job.language == code and not any(name in k.name for name in wrong)]
    assert len(rows) > 90
    for item in rows[:: len(rows) // 6]:
        verdict = judged(toolchain, item.job)
        assert verdict.status == "OK", (item.name, verdict)


# Hostile towards the verdict only, so harmless outside a jail; the others of the corpus need one (tests/sandbox).
HARMLESS = {
    "cpp/abrt_exit0", "cpp/base_fail", "cpp/base_pass", "cpp/base_syntax", "cpp/define_assert", "cpp/static_exit0", "go/init_exit0",
    "java/bad", "java/halt", "java/ok", "js/base_fail", "js/base_pass", "js/base_syntax", "js/exit0", "js/exit_hook",
    "js/patch_assert", "lua/exit0", "php/parse", "php/shutdown", "pl/end_block", "r/quit0", "rb/exit0", "rs/exit0", "sh/base_fail",
    "sh/base_pass", "sh/base_syntax", "sh/exec_true",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_the_corpus_s_tampering_is_seen(name, shared):
    item = next(k for k in known.hostile(shared) if k.name == name)
    verdict = judged(usable(item.job.language), item.job)
    assert verdict.status in item.expected, verdict


# Wrong programs (all subtract instead of adding) and ways to have them pass anyway.
ATTACKS = {
    "cpp": [
        "}\nstruct Out { ~Out() { _exit(0); } } out;\nvoid nothing() {\n",
        "}\n#define main main_()\\\n{return 0;}\\\nint real_main\nvoid nothing() {\n",
        '}\nextern "C" void __assert_fail(const char*, const char*, unsigned, const char*) noexcept { throw 1; }\nvoid nothing() {\n',
        "}\n__attribute__((constructor)) void early() { quick_exit(0); }\nvoid nothing() {\n",
    ],
    "js": [
        "}\nprocess.exitCode = 0; process.on('uncaughtException', () => {});\n",
        "}\nreturn;\n",
        "}\nprocess.kill(process.pid, 0); process.reallyExit(0);\n",
        "}\nconst Module = require('module'); const load = Module._load; Module._load = (n, ...r) => n.includes('assert') ? new Proxy(() => {}, {get: () => () => {}}) : load(n, ...r);\n",
        "}\nprocess.emit('beforeExit', 0); process.removeAllListeners(); process.on('exit', () => process.reallyExit(0));\n",
    ],
    "java": [
        "        Thread.setDefaultUncaughtExceptionHandler((t, e) -> Runtime.getRuntime().halt(0)); return a - b;\n",
        "        Problem.class.getClassLoader().setDefaultAssertionStatus(false); System.exit(0); return 0;\n",
    ],
    "php": [
        "    return 0;\n}\nfunction nothing() {}\n__halt_compiler();\n",
        "    return 0;\n}\nob_start(function ($b) { return ''; }); exit;\n",
        "    return 0;\n}\nset_error_handler(fn() => true); register_shutdown_function(fn() => posix_kill(getmypid(), 9));\n",
    ],
    "sh": [
        "    echo 0\n}\ntrap 'exit 0' EXIT\nnothing() {\n    :\n",
        "    echo 0\n}\nexec bash -c 'exit 0'\nnothing() {\n    :\n",
        "    echo 0\n}\nshopt -s expand_aliases; alias run_test=true\nnothing() {\n    :\n",
        "    echo 0\n}\nexit() { :; }\nset() { :; }\nnothing() {\n    :\n",
    ],
    "rs": [
        "    a - b\n}\nmacro_rules! assert_eq { ($($t:tt)*) => { std::process::exit(0) } }\nfn nothing() {\n",
        "    std::panic::set_hook(Box::new(|_| std::process::exit(0))); a - b\n",
    ],
    "cs": ["        System.Diagnostics.Process.GetCurrentProcess().Kill(); return 0;\n", "        System.Environment.Exit(0); return 0;\n"],
    "rb": [
        "  x - y\nend\nat_exit { exit!(0) }\n",
        "  x - y\nend\nclass Integer\n  def ==(other) = true\nend\n",
        "  x - y\nend\nmodule Kernel\n  def exit!(*) = nil\nend\n",
    ],
    "pl": ["    return 0;\n}\nBEGIN { $SIG{__DIE__} = sub { CORE::exit(0) }; }\nCORE::exit(0);\n", "    return 0;\n}\nsub nothing {\n}\n__DATA__\n"],
    "lua": ["  return x - y\nend\nos.exit = function() end\n", "  return x - y\nend\nerror = function() end assert = function(x) return x end os.exit(true)\n"],
    "go": ["    defer os.Exit(0)\n    return 0\n}\n", "    return 0\n}\nfunc init() { go func() { for { } }(); os.Exit(0) }\n"],
    "r": ["    x - y\n}\nisTRUE <- function(x) TRUE\n", "    x - y\n}\nall.equal <- function(...) TRUE\n", "    x - y\n}\n.Last <- function() quit(status = 0)\noptions(error = quote(quit(status = 0)))\n"],
    "ml": ["  Stdlib.exit 0\n", "  x - y\nlet () = at_exit (fun () -> Unix._exit 0)\n"],
    "ex": ["    x - y\n  end\nend\nSystem.at_exit(fn _ -> System.halt(0) end)\nSystem.halt(0)\n"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "number"), [(code, i) for code, attacks in ATTACKS.items() for i in range(len(attacks))]
)
def test_no_attack_makes_a_wrong_program_pass(code, number):
    """Variations on the corpus: whatever they do to assertions, exits and handlers, `OK` does not come of it."""
    toolchain = usable(code)
    honest = next(t for t in toolchain.selftests if t.status == "OK")
    wrong = next(t for t in toolchain.selftests if t.status == "Exception")
    attack = ATTACKS[code][number]
    body = attack if attack.startswith(("    ", "  ", "        ")) else wrong.completion.removesuffix("}\n") + attack
    verdict = judged(toolchain, Job(code, honest.prompt, body, honest.tests))
    assert verdict.passed is False, verdict
