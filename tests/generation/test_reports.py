"""--report-to and --push-to-hub: curves where people watch, folders where they keep them, and no network of anybody's."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from rrk import jsonl, manifest
from rrk.errors import UsageError
from rrk.generation import reports
from tests.generation.tiny import make_model


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as one commit of small files needs."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - the test's only hub
    made: list[dict] = []  # noqa: RUF012
    refuse = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if Hub.refuse:
            self.answer({"error": "the hub is being mended"}, 403)
        elif self.path == "/api/repos/create":
            Hub.made.append(json.loads(body))
            self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/me/model", "name": "me/model"})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    Hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://127.0.0.1:{self.server.server_port}/me/model/commit/{'0' * 40}"
            self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self.answer({"error": f"not made for {self.path}"}, 404)

    def do_GET(self):
        self.answer({"error": f"not made for {self.path}"}, 404)

    def answer(self, value, code=200):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
    server.shutdown()


def test_a_run_is_reported_and_pushed(rrk, tmp_path, hub):
    """The folder goes up without checkpoints and curves; a push that fails loses nothing and is made good by the same command."""
    installed = [name for name in reports.PLACES if importlib.util.find_spec(name)]
    model = str(make_model(tmp_path / "base"))
    rows = [
        {"prompt": f"def f{n}(x):\n", "completion": f"    return {n}\n", "passed": True, "task_id": f"t/{n}"}
        for n in range(8)
    ]
    jsonl.write(tmp_path / "rows.jsonl", rows)
    command = [
        "train-sft",
        "rows.jsonl",
        "-m",
        model,
        "-o",
        "run",
        "--steps",
        "3",
        "--batch-size",
        "4",
        "--push-to-hub",
        "me/model",
    ]
    command += [option for name in installed for option in ("--report-to", name)]
    local = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HOME": str(tmp_path / "hf")}
    Hub.refuse = True
    done = rrk(*command, **hub, **local)
    assert done.returncode == 1, done.stderr.decode()
    assert b"run is complete, but could not be pushed to me/model" in done.stderr
    assert done.stdout == b""
    assert manifest.read(tmp_path / "run") is not None
    Hub.refuse = False
    done = rrk(*command, **hub, **local)
    assert done.returncode == 0, done.stderr.decode()
    assert b"pushed to http" in done.stderr
    assert Hub.made[-1].get("visibility") == "private" or Hub.made[-1].get("private") is True
    there = {str(p.relative_to(tmp_path / "run")): p for p in (tmp_path / "run").rglob("*") if p.is_file()}
    kept = {name: path.read_bytes() for name, path in there.items() if not name.startswith("tensorboard")}
    assert Hub.files == kept
    assert {"rrk.json", "model.safetensors", "config.json"} <= kept.keys()
    if "tensorboard" in installed:
        assert curve(tmp_path / "run" / "tensorboard", "train/loss")
    if "wandb" in installed:
        assert list((tmp_path / "wandb").glob("offline-run-*"))
    if "trackio" in installed:
        assert list((tmp_path / "trackio").glob("rrk*"))


def curve(folder: Path, name: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [event.step for event in found.Scalars(name)]


def test_a_trainer_of_our_own_tells_one_run_of_every_place(tmp_path, monkeypatch):
    """Begun by the first figures, with the options beside them; a run that tells nothing leaves nothing."""
    heard: dict[str, list] = {}
    for name in ("wandb", "trackio"):
        begun = heard[name] = []
        run = SimpleNamespace(log=lambda figures, step, begun=begun: begun.append((step, figures)))
        place = SimpleNamespace(
            init=lambda project, begun=begun, run=run, **how: (
                begun.append((project, how["name"], how["config"])) or run
            ),
            setup=lambda: SimpleNamespace(settings=SimpleNamespace(project=None)),
        )
        monkeypatch.setitem(sys.modules, name, place)
    curves = reports.Curves(["wandb", "trackio"], tmp_path / "policy", {"lr": 0.1})
    assert heard == {"wandb": [], "trackio": []}
    for step in (3, 4):
        curves.add(step, {"score": step / 2})
    told = [("rrk", "policy", {"lr": 0.1}), (3, {"score": 1.5}), (4, {"score": 2.0})]
    assert heard == {"wandb": told, "trackio": told}


def test_unknown_places_are_refused_before_training():
    with pytest.raises(UsageError, match="wandb, trackio, tensorboard"):
        reports.check(["notebook"])


def test_a_push_without_login_or_name_is_refused_before_training(rrk, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    command = ["train-sft", "rows.jsonl", "-m", "base", "-o", "run", "--push-to-hub"]
    no_login = {"HF_TOKEN": "", "HF_HOME": str(tmp_path / "hf")}
    for name, said in (("a/b/c", b"--push-to-hub a/b/c"), ("a/b", b"log in first")):
        done = rrk(*command, name, **no_login)
        assert done.returncode == 2
        assert said in done.stderr
