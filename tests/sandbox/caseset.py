"""Our own corpus of programs that are judged by cases: ten languages, each in every behaviour that a judge has to tell apart.

    python -m tests.sandbox.caseset py sh ...      # judges them, a JSON row each; as any user

One program a language reads what it has to do from its first line and two numbers from its second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rrk.cases import Case, CaseSet
from rrk.sandbox import Job
from rrk.sandbox.judge.case_judge import judge
from rrk.sandbox.languages.recipe_file import parse
from rrk.sandbox.verdict import Verdict
from rrk.sandbox.workers.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "py": r"""
import os, sys
mode = input()
a, b = map(int, input().split())
if mode == "right": print(a + b)
elif mode == "wrong": print(a + b + 1)
elif mode == "slow":
    while True: pass
elif mode == "early":
    print(a + b, flush=True)
    os._exit(0)
elif mode == "status":
    print(a + b)
    sys.exit(3)
elif mode == "forge":
    for fd in [*range(3, 20), 200]:
        try: os.write(fd, b"vtrue\n")
        except OSError: pass
    print("OK")
elif mode == "endless":
    while True: print("x" * 1000)
elif mode == "beyond":
    sys.stdin.read()
    print(a + b)
elif mode == "wait":
    while not sys.stdin.readline(): pass
elif mode == "binary": sys.stdout.buffer.write(b"\xff\xfe\0\x80")
elif mode == "huge": print(sum(1 for line in sys.stdin))
""",
    "cpp": r"""
#include <bits/stdc++.h>
#include <unistd.h>
using namespace std;
int main() {
    string mode, line; long a, b;
    cin >> mode >> a >> b; getline(cin, line);
    if (mode == "right") cout << a + b << endl;
    else if (mode == "wrong") cout << a + b + 1 << endl;
    else if (mode == "slow") for (volatile int i = 0;; i++);
    else if (mode == "early") { cout << a + b << flush; _exit(0); }
    else if (mode == "status") { cout << a + b << endl; return 3; }
    else if (mode == "forge") { for (int fd = 3; fd <= 200; fd++) if (write(fd, "vtrue\n", 6)) {} cout << "OK" << endl; }
    else if (mode == "endless") for (;;) cout << string(1000, 'x') << "\n";
    else if (mode == "beyond") { while (getline(cin, line)); cout << a + b << endl; }
    else if (mode == "wait") while (!getline(cin, line)) cin.clear();
    else if (mode == "binary") cout.write("\xff\xfe\0\x80", 4);
    else if (mode == "huge") { long n = 0; while (getline(cin, line)) n++; cout << n << endl; }
}
""",
    "java": r"""
import java.io.*;
import java.util.*;
public class Main {
    public static void main(String[] words) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        String mode = in.readLine();
        StringTokenizer two = new StringTokenizer(in.readLine());
        long a = Long.parseLong(two.nextToken()), b = Long.parseLong(two.nextToken());
        if (mode.equals("right")) System.out.println(a + b);
        else if (mode.equals("wrong")) System.out.println(a + b + 1);
        else if (mode.equals("slow")) for (;;) a++;
        else if (mode.equals("early")) { System.out.println(a + b); Runtime.getRuntime().halt(0); }
        else if (mode.equals("status")) { System.out.println(a + b); System.exit(3); }
        else if (mode.equals("forge")) {
            for (int fd = 3; fd < 20; fd++)
                try (FileOutputStream to = new FileOutputStream("/proc/self/fd/" + fd)) { to.write("vtrue\n".getBytes()); } catch (Exception e) { }
            System.out.println("OK");
        }
        else if (mode.equals("endless")) for (;;) System.out.println("x".repeat(1000));
        else if (mode.equals("beyond")) { while (in.readLine() != null); System.out.println(a + b); }
        else if (mode.equals("wait")) while (in.readLine() == null);
        else if (mode.equals("binary")) { System.out.write(new byte[] {-1, -2, 0, -128}); System.out.flush(); }
        else if (mode.equals("huge")) { long n = 0; while (in.readLine() != null) n++; System.out.println(n); }
    }
}
""",
    "js": r"""
const fs = require("fs");
const lines = fs.readFileSync(0, "utf8").split("\n");
const mode = lines[0], [a, b] = lines[1].split(" ").map(Number);
if (mode === "right") console.log(a + b);
else if (mode === "wrong") console.log(a + b + 1);
else if (mode === "slow") for (;;);
else if (mode === "early") { fs.writeSync(1, String(a + b)); process.reallyExit(0); }
else if (mode === "status") { console.log(a + b); process.exitCode = 3; }
else if (mode === "forge") {
    for (let fd = 3; fd <= 200; fd++) try { fs.writeSync(fd, "vtrue\n"); } catch { }
    console.log("OK");
}
else if (mode === "endless") for (;;) fs.writeSync(1, "x".repeat(1000) + "\n");
else if (mode === "beyond") { fs.readFileSync("/dev/stdin"); console.log(a + b); }
else if (mode === "wait") while (fs.readSync(0, Buffer.alloc(10)) === 0);
else if (mode === "binary") fs.writeSync(1, Buffer.from([255, 254, 0, 128]));
else if (mode === "huge") console.log(lines.length - 3);
""",
    "rs": r"""
use std::io::{self, BufRead, Write, Read};
fn main() {
    let stdin = io::stdin();
    let mut input = stdin.lock();
    let (mut mode, mut line) = (String::new(), String::new());
    input.read_line(&mut mode).unwrap();
    input.read_line(&mut line).unwrap();
    let two: Vec<i64> = line.split_whitespace().map(|x| x.parse().unwrap()).collect();
    let (a, b) = (two[0], two[1]);
    match mode.trim() {
        "right" => println!("{}", a + b),
        "wrong" => println!("{}", a + b + 1),
        "slow" => { let mut i = 0u64; loop { i = std::hint::black_box(i + 1); } }
        "early" => { println!("{}", a + b); std::process::exit(0); }
        "status" => { println!("{}", a + b); std::process::exit(3); }
        "forge" => {
            for fd in 3..20 {
                if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", fd)) { let _ = file.write(b"vtrue\n"); }
            }
            println!("OK");
        }
        "endless" => loop { println!("{}", "x".repeat(1000)); },
        "beyond" => { let mut rest = String::new(); input.read_to_string(&mut rest).unwrap(); println!("{}", a + b); }
        "wait" => while input.read_line(&mut line).unwrap() == 0 {},
        "binary" => io::stdout().write_all(&[255, 254, 0, 128]).unwrap(),
        "huge" => println!("{}", input.lines().count()),
        _ => {}
    }
}
""",
    "pl": r"""
use POSIX;
my $mode = <STDIN>; chomp $mode;
my ($a, $b) = split " ", <STDIN>;
if ($mode eq "right") { print $a + $b, "\n" }
elsif ($mode eq "wrong") { print $a + $b + 1, "\n" }
elsif ($mode eq "slow") { while (1) { } }
elsif ($mode eq "early") { $| = 1; print $a + $b, "\n"; POSIX::_exit(0) }
elsif ($mode eq "status") { print $a + $b, "\n"; exit 3 }
elsif ($mode eq "forge") { for my $fd (3 .. 20, 200) { POSIX::write($fd, "vtrue\n", 6) } print "OK\n" }
elsif ($mode eq "endless") { while (1) { print "x" x 1000, "\n" } }
elsif ($mode eq "beyond") { my @rest = <STDIN>; print $a + $b, "\n" }
elsif ($mode eq "wait") { my $line; do { $line = <STDIN> } until defined $line }
elsif ($mode eq "binary") { binmode STDOUT; print "\xff\xfe\0\x80" }
elsif ($mode eq "huge") { my $n = 0; $n++ while <STDIN>; print "$n\n" }
""",
    "sh": r"""
read mode
read a b
case $mode in
    right) echo $((a + b));;
    wrong) echo $((a + b + 1));;
    slow) while :; do :; done;;
    early) echo $((a + b)); kill -STOP 999999 2>/dev/null; exec /bin/true;;
    status) echo $((a + b)); exit 3;;
    forge) for fd in 3 4 5 6 7 8 200; do { echo vtrue >&$fd; } 2>/dev/null; done; echo OK;;
    endless) yes $(printf 'x%.0s' {1..1000});;
    beyond) while read line; do :; done; echo $((a + b));;
    wait) until read line; do :; done;;
    binary) printf '\xff\xfe\0\x80';;
    huge) wc -l;;
esac
""",
    "rb": r"""
mode = gets.chomp
a, b = gets.split.map(&:to_i)
case mode
when "right" then puts a + b
when "wrong" then puts a + b + 1
when "slow" then loop { }
when "early" then puts a + b; $stdout.flush; exit!(0)
when "status" then puts a + b; exit 3
when "forge"
  (3..20).each { |fd| begin; File.write("/proc/self/fd/#{fd}", "vtrue\n"); rescue SystemCallError; end }
  puts "OK"
when "endless" then loop { puts "x" * 1000 }
when "beyond" then $stdin.read; puts a + b
when "wait" then nil until gets
when "binary" then $stdout.binmode; $stdout.write([255, 254, 0, 128].pack("C*"))
when "huge" then puts $stdin.each_line.count
end
""",
    "lua": r"""
local mode = io.read("l")
local a, b = io.read("n", "n")
io.read("l")
if mode == "right" then print(a + b)
elseif mode == "wrong" then print(a + b + 1)
elseif mode == "slow" then while true do end
elseif mode == "early" then io.write(a + b) io.flush() os.exit(0, false)
elseif mode == "status" then print(a + b) os.exit(3)
elseif mode == "forge" then
    for fd = 3, 20 do local f = io.open("/proc/self/fd/" .. fd, "w") if f then f:write("vtrue\n") f:close() end end
    print("OK")
elseif mode == "endless" then while true do print(("x"):rep(1000)) end
elseif mode == "beyond" then io.read("a") print(a + b)
elseif mode == "wait" then while not io.read("l") do end
elseif mode == "binary" then io.write("\255\254\0\128")
elseif mode == "huge" then local n = 0 for _ in io.lines() do n = n + 1 end print(n)
end
""",
    "php": r"""<?php
$mode = trim(fgets(STDIN));
[$a, $b] = array_map("intval", explode(" ", fgets(STDIN)));
switch ($mode) {
    case "right": echo $a + $b, "\n"; break;
    case "wrong": echo $a + $b + 1, "\n"; break;
    case "slow": while (true) { }
    case "early": echo $a + $b, "\n"; exit(0);
    case "status": echo $a + $b, "\n"; exit(3);
    case "forge":
        for ($fd = 3; $fd <= 20; $fd++) { $f = @fopen("php://fd/$fd", "w"); if ($f) @fwrite($f, "vtrue\n"); }
        echo "OK\n"; break;
    case "endless": while (true) { echo str_repeat("x", 1000), "\n"; }
    case "beyond": stream_get_contents(STDIN); echo $a + $b, "\n"; break;
    case "wait": while (fgets(STDIN) === false) { } break;
    case "binary": echo "\xff\xfe\0\x80"; break;
    case "huge": $n = 0; while (fgets(STDIN) !== false) $n++; echo $n, "\n";
}
""",
}
# What a program does -> what it gets: status, reason.
BEHAVIOURS = {
    "right": ("OK", None),
    "wrong": ("Exception", "wrong_answer"),
    "slow": ("Timeout", "cpu"),
    "early": ("OK", None),
    "status": ("Exception", "exit"),
    "forge": ("Exception", "wrong_answer"),
    "endless": ("OutputLimit", "output"),
    "beyond": ("OK", None),
    "wait": ("Timeout", "cpu"),
    "binary": ("Exception", "wrong_answer"),
    "huge": ("OK", None),
    "many": ("OK", None),
}
MANY = 500
HUGE = 1_310_720  # lines of eight characters: 10 MB
ALL_OF_MANY = (
    "py",
    "cpp",
    "sh",
)  # forked, compiled, started by a command; elsewhere FEW say as much in a tenth of the time
FEW = 25
SHORT = 0.2  # CPU seconds of a case that must run out of them


def jobs(language: str, whole: Sequence[str] = ALL_OF_MANY) -> Iterator[tuple[str, Job]]:
    """(behaviour, job) of a language. Two cases each, of which the second is another than right; `many` has MANY if `whole`."""
    for behaviour in BEHAVIOURS:
        right = Case("right\n1 2\n", "3\n")
        if behaviour == "many":
            count = MANY if language in whole else FEW
            given = [Case(f"right\n{i} 2\n", f"{i + 2}\n") for i in range(count)]
        elif behaviour == "huge":
            given = [right, Case("huge\n1 2\n" + "1234567\n" * HUGE, f"{HUGE}\n")]
        else:
            given = [right, Case(f"{behaviour}\n1 2\n" + "9\n" * (behaviour == "beyond"), "3\n")]
            if BEHAVIOURS[behaviour][0] == "Timeout":
                given[1] = Case(given[1].input, "3\n", timeout=SHORT)
        yield behaviour, Job(language, "", PROGRAMS[language], "", full=True, case_set=CaseSet("stdin", tuple(given)))


def wrong(behaviour: str, verdict: Verdict) -> bool:
    """Whether a verdict is another than it should be. On a busy machine wall time may run out before CPU time does."""
    status, reason = BEHAVIOURS[behaviour]
    return verdict.status != status or (verdict.reason != reason and status != "Timeout")


def judged(language: str) -> list[dict]:
    """The rows of a language's programs; none where its tools are not there for this user."""
    toolchain = parse(ROOT / "sandboxes" / f"{language}.toml")
    if lacking := toolchain.missing():
        print(f"{language}: {'; '.join(lacking)}", file=sys.stderr)
        return []
    with Worker(mounts=toolchain.mounts()) as worker:
        found = [(behaviour, judge(worker, toolchain, job)) for behaviour, job in jobs(language, whole=["py"])]
    return [{"language": language, "behaviour": b, **v.fields(), "wrong": wrong(b, v)} for b, v in found]


def main() -> None:
    # Workers and language files alone: whoever runs this may have no other package.
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(judged, sys.argv[1:]):
            for row in rows:
                print(json.dumps(row))


if __name__ == "__main__":
    main()
