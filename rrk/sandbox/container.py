"""The same judge inside a container: for machines whose kernel or policy allows no namespaces, and for other systems.

    work = Container("podman", {"--jobs": 4}, ["problems.jsonl"])
    for outputs in work(items):        # as the work of rrk.stage.run: rows go in by a pipe, and come out by another
        ...

The image is built from sandboxes/Containerfile; inside it `rrk execute --sandbox auto` runs, jail and all. The engine's own
filter forbids what the jail is made of, so it is switched off, and what it would have kept out the jail's keeps out.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrk import jsonl
from rrk.errors import RrkError

ENGINES = ("podman", "docker")
IMAGE = "rrk-sandbox"
BUILD = f"build -t {IMAGE} -f sandboxes/Containerfile ."
_HELD = 4096  # rows on their way


class Container:
    """Runs rows through `rrk execute` in a container. RrkError, one line, where engine or image are missing."""

    def __init__(
        self,
        engine: str,
        flags: Mapping[str, Any],
        problems: Sequence[str] = (),
        evidence: Sequence[str] = (),
        sandboxes: Sequence[str] = (),
    ) -> None:
        self.figures: dict[str, Any] = {}
        path = shutil.which(engine)
        if path is None:
            raise RrkError(
                f"--sandbox {engine}: no {engine} on PATH; install it, or use --sandbox auto (see rrk doctor)"
            )
        asked = subprocess.run([path, "image", "inspect", IMAGE], capture_output=True, check=False)
        if asked.returncode:
            said = asked.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise RrkError(f"--sandbox {engine}: no image {IMAGE}; `{engine} {BUILD}` makes it ({''.join(said)})")
        self._engine = engine
        self._argv = [path, "run", "--rm", "-i", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        self._argv += ["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
        if engine == "podman":
            self._argv += ["--security-opt=unmask=ALL"]
        else:
            self._argv += ["--security-opt=systempaths=unconfined"]
        inner: list[str] = []
        for flag, paths in (("-p", problems), ("--evidence", evidence), ("--sandboxes", sandboxes)):
            for number, given in enumerate(paths):
                # By number: two files may have one name. The suffix says how it is packed.
                inside = f"/rrk/{flag.strip('-')}{number}/{Path(given).name}"
                self._argv += ["--mount", f"type=bind,source={Path(given).resolve()},target={inside},readonly"]
                inner += [flag, inside]
        for flag, value in flags.items():
            if value is not None:
                inner += [flag] if value is True else [flag, str(value)]
        self._argv += [IMAGE, "execute", "--sandbox", "auto", "--quiet", *inner, "-"]

    def __call__(self, items: Any) -> Iterator[list[dict[str, Any]]]:
        child = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        errors: deque[str] = deque(maxlen=20)
        answers: deque[dict[str, Any]] = deque()
        changed = threading.Condition()
        state = {"ended": False}

        def listen(stream: Any) -> None:
            for line in stream:
                row = jsonl.loads(line)
                with changed:
                    answers.append(row)
                    changed.notify()
            with changed:
                state["ended"] = True
                changed.notify()

        def complain(stream: Any) -> None:
            errors.extend(line.decode("utf-8", "replace").strip() for line in stream)

        threads = [
            threading.Thread(target=listen, args=(child.stdout,), daemon=True),
            threading.Thread(target=complain, args=(child.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        sent = 0
        more = True
        try:
            while more or sent:
                # Not more than is answered in time: rows wait in the engine's pipes, not in our memory.
                while more and sent < _HELD and (not sent or (not answers and items.ready())):
                    try:
                        row = next(items)
                    except StopIteration:
                        more = False
                        child.stdin.close()
                        break
                    try:
                        child.stdin.write(jsonl.dumps(row))
                        child.stdin.flush()
                    except OSError:
                        more = False
                    sent += 1
                with changed:
                    if not answers and not state["ended"] and sent:
                        changed.wait(0.02 if more else None)
                    done = list(answers)
                    answers.clear()
                    ended = state["ended"] and not done
                for row in done:
                    sent -= 1
                    if "error" in (row.get("evidence") or {}):
                        self.figures["without evidence"] = self.figures.get("without evidence", 0) + 1
                    yield [row]
                if ended and sent:
                    threads[1].join(5)
                    raise RrkError(
                        f"--sandbox {self._engine}: {' '.join(errors) or 'ended early'} (exit {child.wait()})"
                    )
        finally:
            child.terminate()
            for stream in (child.stdin, child.stdout, child.stderr):
                try:
                    stream.close()
                except OSError:
                    pass
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
