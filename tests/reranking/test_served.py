"""rrk rerank --base-url against a server of vLLM's protocol that holds the model: the local scores, or a refusal that says why."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

from rrk import jsonl  # noqa: E402
from rrk.errors import RrkError, UsageError  # noqa: E402
from rrk.reranking.record import Record, write  # noqa: E402
from rrk.reranking.render import Rendering  # noqa: E402
from rrk.reranking.scorer import Scorer, question  # noqa: E402
from rrk.reranking.served import Served  # noqa: E402
from tests.reranking import models  # noqa: E402
from tests.test_contract import reranker  # noqa: E402


class Pooling(ThreadingHTTPServer):
    """vLLM's /classify, /pooling and /v1/models over transformers' own classifier; `how` says what is odd about it."""

    kind = AutoModelForSequenceClassification

    def __init__(self, folder, how: str = "", dtype=torch.float32):
        self.model = self.kind.from_pretrained(folder, dtype=dtype).eval()
        self.how = how
        self.requests: list[dict] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                names = {"two names": ["a", "b"], "own name": ["the-reranker"]}.get(how, [str(folder)])
                handler.answer({"object": "list", "data": [{"id": name} for name in names]})

            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock, torch.inference_mode():
                    self.requests.append({"path": handler.path, **body})
                    found = self.reply(handler.path, body)
                handler.answer(*((found, 200) if found else ({"detail": "Not Found"}, 404)))

            def answer(handler, value, code=200):
                data = json.dumps(value).encode()
                handler.send_response(code)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, path: str, body: dict):
        if path not in ("/classify", "/pooling") or (path == "/classify" and self.how in ("pooling", "tokens")):
            return None
        assert body["add_special_tokens"] is False
        logits = [self.model(torch.tensor([ids])).logits.float()[0].tolist() for ids in body["input"]]
        if self.how == "sigmoid" or body["use_activation"]:
            logits = [torch.tensor(row).sigmoid().tolist() for row in logits]
        if self.how == "softmax":
            logits = [[1.0] for _ in logits]
        if self.how == "fewer":
            logits = logits[1:]
        if self.how == "tokens":
            logits = [[[0.0], row] for row in logits]
        name = "data" if path == "/pooling" else "probs"
        return {"object": "list", "data": [{"index": i, name: row} for i, row in enumerate(logits)][::-1]}


class Echoing(Pooling):
    """vLLM's /v1/completions of token ids: the text's own log-probabilities, of its first token none, and a token drawn behind."""

    kind = AutoModelForCausalLM

    def reply(self, path: str, body: dict):
        if path != "/v1/completions":
            return None
        assert (body["echo"], body["max_tokens"], body["temperature"]) == (True, 1, 1.0)
        choices = []
        for index, ids in enumerate(body["prompt"]):
            logp = self.model(torch.tensor([ids])).logits.float()[0].log_softmax(-1)
            own = [None, *(float(logp[i, token]) for i, token in enumerate(ids[1:])), -3.0]
            choices.append({"index": index, "logprobs": None if self.how == "no echo" else {"token_logprobs": own}})
        return {"choices": choices[::-1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return reranker(tmp_path_factory.mktemp("served") / "reranker")


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """The same of a likelihood."""
    folder = models.save(tmp_path_factory.mktemp("served") / "generator", "qwen2")
    how = Rendering(pooling="likelihood")
    write(folder, Record(how, Scorer(models.network("qwen2", None), models.tokenizer(), how).golden()))
    return folder


@pytest.fixture
def serve(folder, generator):
    servers = []

    def start(how="", kind=Pooling, **more):
        servers.append(kind(folder if kind is Pooling else generator, how, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def problems():
    rows = models.candidates()
    return [[row for row in rows if row["task_id"] == task] for task in dict.fromkeys(r["task_id"] for r in rows)]


@pytest.mark.parametrize("how", ["", "pooling", "tokens", "sigmoid", "own name"])
def test_scores_are_the_local_ones_whatever_the_servers_shape(folder, serve, how):
    """/classify or /pooling, raw or through a sigmoid, one number a text or one a token."""
    local = Scorer.load(folder, "cpu", "float32")
    server = serve(how)
    served = Served.load(folder, server.url, jobs=3, first_pause=0.01)
    for problem, scores in served(iter(problems())):
        assert scores == pytest.approx(local.score(*question(problem)), abs=1e-3 if how == "sigmoid" else 1e-5)
    asked = server.requests[-1]
    assert asked["model"] == ("the-reranker" if how == "own name" else str(folder))
    assert all(isinstance(number, int) for number in asked["input"][0])


def test_a_server_of_fewer_bits_is_within_their_rounding(folder, serve):
    local = Scorer.load(folder, "cpu", "float32")
    served = Served.load(folder, serve(dtype=torch.bfloat16).url)
    for problem, scores in served(iter(problems())):
        assert scores == pytest.approx(local.score(*question(problem)), abs=0.12)


def test_equal_programs_are_asked_for_once_and_many_in_parts(folder, serve):
    server = serve()
    served = Served.load(folder, server.url)
    before = len(server.requests)
    scores = served.score("def f(x):\n", [f"    return {n % 70}\n" for n in range(140)])
    assert scores[:70] == scores[70:]
    assert [len(body["input"]) for body in server.requests[before:]] == [64, 6]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("softmax", "the same number for every program"),
        ("fewer", "scores are expected"),
        ("two names", "has a, b, and none is called"),
    ],
)
def test_a_server_that_cannot_be_believed_is_refused_in_one_line(folder, serve, how, said):
    with pytest.raises(RrkError, match=said):
        Served.load(folder, serve(how).url, tries=1)


def test_a_likelihood_is_read_from_the_echoed_text(generator, serve):
    local = Scorer.load(generator, "cpu", "float32")
    server = serve(kind=Echoing)
    served = Served.load(generator, server.url, jobs=3)
    before = len(server.requests)
    for problem, scores in served(iter(problems())):
        assert scores == pytest.approx(local.score(*question(problem)), abs=1e-5)
    assert len(server.requests) - before == len(problems()), "one request a problem"
    with pytest.raises(RrkError, match="no log-probabilities of the text that was sent"):
        Served.load(generator, serve("no echo", Echoing).url, tries=1)


@pytest.mark.parametrize("method", ["likelihood", "reviewer"])
def test_a_generator_that_nobody_trained_as_a_reranker_may_be_served_too(serve, rrk, tmp_path, method):
    base = models.save(tmp_path / "base", "qwen2")
    server = Echoing(base)
    try:
        rows = "".join(json.dumps(row) + "\n" for row in models.candidates()).encode()
        done = rrk("rerank", "--method", method, "-m", str(base), "--base-url", server.url, input=rows)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr.decode()
    ours = {(row["task_id"], row["completion_id"]): row["score"] for row in models.reranked(rrk, method, base)}
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(theirs) == len(ours) > 0
    for row in theirs:
        assert row["score"] == pytest.approx(ours[row["task_id"], row["completion_id"]], abs=1e-5)


def test_another_model_behind_the_url_is_noticed(folder, serve, tmp_path):
    other = tmp_path / "other"
    models.network("llama", 1, seed=5).save_pretrained(other)
    server = Pooling(other)
    try:
        with pytest.raises(RrkError, match=r"does not hold .*: its scores of known programs are others"):
            Served.load(folder, server.url, tries=1)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UsageError, match="the folder of `rrk train-reranker`"):
        Served.load(other, server.url)


@pytest.mark.parametrize("more", [(), ("--undecided",)])
def test_the_command_ranks_as_the_local_one(folder, serve, rrk, tmp_path, more):
    """Rows, order and ranks; --top and --undecided as everywhere; nothing of a model is loaded here."""
    given = models.candidates()
    decided = (given[0]["task_id"], given[-1]["task_id"])
    given = [{**row, "passed": row["passed"] or row["task_id"] in decided} for row in given]
    jsonl.write(tmp_path / "c.jsonl", given)
    local = rrk("rerank", "c.jsonl", "-m", str(folder), "--dtype", "float32", "--top", "2", *more)
    served = rrk("rerank", "c.jsonl", "-m", str(folder), "--base-url", serve().url, "--top", "2", *more)
    assert served.returncode == 0, served.stderr.decode()
    rows = [[json.loads(line) for line in done.stdout.splitlines()] for done in (local, served)]
    assert len(rows[0]) > 0
    assert {row["task_id"] for row in rows[0]}.isdisjoint(decided if more else ())
    for ours, theirs in zip(*rows, strict=True):
        assert abs(ours.pop("score") - theirs.pop("score")) < 1e-4
        assert ours == theirs
    wrong = rrk("rerank", "c.jsonl", "--method", "ngram", "--base-url", "http://x")
    assert wrong.returncode == 2
