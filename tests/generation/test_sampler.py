"""The sampler against transformers: the same greedy tokens, the same log-probabilities, the same distribution, any batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rrk.errors import RrkError  # noqa: E402
from rrk.generation import decoding  # noqa: E402
from rrk.generation.models import encode_prompt, load  # noqa: E402
from rrk.generation.sampler import Sampler  # noqa: E402
from rrk.generation.stopping import StopStrings  # noqa: E402
from tests.generation.tiny import make_model  # noqa: E402

KINDS = ["qwen2", "llama", "gpt2", "mistral", "gemma2"]
PROMPTS = ["", "d", "def f(x):\n", "def g(y):\n    # é 漢字\n" * 3, "x = 1\n" * 12, "def h(z):\n"]
SEEDS = [[100 * i + j for j in range(5)] for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: load(make_model(folder / kind, kind), "cpu") for kind in KINDS}


@pytest.fixture(scope="module")
def qwen(made):
    return made["qwen2"]


def test_only_plain_attention_shares_the_prompt(made):
    shared = {kind: Sampler(*made[kind], max_tokens=4).problems_at_once(2) > 1 for kind in KINDS}
    assert shared["qwen2"]
    assert shared["llama"]
    assert not shared["mistral"], "windows take the other way"
    assert not shared["gemma2"], "so do caps"


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_generate(made, kind):
    model, tokenizer = made[kind]
    drawn = Sampler(model, tokenizer, temperature=0, max_tokens=40)(PROMPTS, [[0]] * len(PROMPTS))
    for (completion,) in drawn:
        head = torch.tensor([completion.prompt])
        want = model.generate(head, attention_mask=torch.ones_like(head), max_new_tokens=40, do_sample=False)
        assert completion.ids == want[0, head.shape[1] :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_logprob_is_that_of_a_full_pass_at_temperature_one(made, kind, temperature, top_p):
    model, tokenizer = made[kind]
    groups = Sampler(model, tokenizer, temperature=temperature, top_p=top_p, max_tokens=40)(PROMPTS, SEEDS)
    assert len({len(c.ids) for group in groups for c in group}) > 1, "rows must end at different steps"
    for group in groups:
        for c in group:
            with torch.no_grad():
                logits = model(torch.tensor([c.prompt + c.ids])).logits[0, len(c.prompt) - 1 : -1]
            want = logits.log_softmax(-1).gather(-1, torch.tensor(c.ids).unsqueeze(-1)).double().sum()
            assert abs(c.logprob - float(want)) < 1e-4


def test_a_completion_does_not_depend_on_what_it_is_drawn_with(qwen):
    """Bit for bit: tokens, text and log-probability, over batches of every composition."""
    model, tokenizer = qwen
    whole = Sampler(model, tokenizer, max_tokens=40)
    together = whole(PROMPTS, SEEDS)
    assert whole.mix, "float32 on a CPU must be able to mix"
    for rows in (1, 2, 7):
        assert Sampler(model, tokenizer, max_tokens=40, rows=rows, mix=True)(PROMPTS, SEEDS) == together
    for i, prompt in enumerate(PROMPTS):
        assert whole([prompt], [SEEDS[i]]) == [together[i]]
        assert whole([prompt], [SEEDS[i][3:4]])[0][0] == together[i][3]
    assert whole(PROMPTS[::-1], SEEDS[::-1]) == together[::-1]


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_the_first_token_has_the_distribution_of_the_model(qwen, top_p):
    model, tokenizer = qwen
    n, temperature = 4000, 0.5
    (group,) = Sampler(model, tokenizer, temperature=temperature, top_p=top_p, max_tokens=1)(["def"], [range(n)])
    with torch.no_grad():
        p = (model(torch.tensor([group[0].prompt])).logits[0, -1].double() / temperature).softmax(-1)
    if top_p < 1:
        order = p.argsort(descending=True)
        kept = order[: int((p[order].cumsum(-1) < top_p).sum()) + 1]
        p = torch.zeros_like(p).index_put_((kept,), p[kept] / p[kept].sum())
    counts = torch.bincount(torch.tensor([c.ids[0] for c in group]), minlength=len(p)).double()
    assert not counts[p == 0].any()
    often = p > 0.002
    deviation = (counts[often] - n * p[often]) / (n * p[often] * (1 - p[often])).sqrt()
    assert deviation.abs().max() < 4.5
    assert deviation.std() < 1.5


def test_stop_strings_end_rows_and_are_cut_off(qwen):
    model, tokenizer = qwen
    stops = [("e", "\n")] * len(PROMPTS)
    groups = Sampler(model, tokenizer, max_tokens=60)(PROMPTS, SEEDS, stops)
    ended = [c for group in groups for c in group if c.finish == "stop"]
    assert len(ended) > 10
    for c in ended:
        assert "e" not in c.text
        assert "\n" not in c.text
        text = tokenizer.decode(c.ids)
        assert "e" in text or "\n" in text
        before = tokenizer.decode(c.ids[:-1])
        assert not {"e", "\n"} & set(before), "must end at the very token"
    for group in groups:
        for c in group:
            if c.finish != "stop":
                assert "e" not in c.text


def test_stop_strings_are_found_as_tokens_arrive_whatever_the_tokens(qwen):
    _, tokenizer = qwen
    texts = [
        "def f(x):\n    return x\n\n\ndef g():",
        "漢字 é\n# comment ü\nif y:",
        "x" * 80 + "\nprint(漢)",
        "\n\n\nclass",
    ]
    for stops in (["\ndef ", "\nif"], ["漢"], ["字 é\n#"], ["\nprint(漢)"], ["\n\n\n"], ["nothing"]):
        for text in texts:
            # The tokenizer's own split, and single bytes: characters are then cut in pieces.
            for pieces in (tokenizer(text)["input_ids"], [i for b in text.encode() for i in _byte(tokenizer, b)]):
                watch = StopStrings(tokenizer, stops)
                for end in range(1, len(pieces) + 1):
                    want = any(stop in tokenizer.decode(pieces[:end]) for stop in stops)
                    assert watch.ended(pieces[:end]) == want
                    if want:
                        break


def _byte(tokenizer, value: int) -> list[int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [tokenizer.convert_tokens_to_ids(bytes_to_unicode()[value])]


def test_less_memory_means_smaller_batches_and_the_same_results(qwen, monkeypatch):
    model, tokenizer = qwen
    want = Sampler(model, tokenizer, max_tokens=10)(PROMPTS, SEEDS)
    real = decoding.SharedPrefix.step

    def scarce(self, tokens):
        if self.rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, tokens)

    said: list[str] = []
    sampler = Sampler(model, tokenizer, max_tokens=10, mix=True, notice=said.append)
    sampler.problems_at_once(5)
    monkeypatch.setattr(decoding.SharedPrefix, "step", scarce)
    assert sampler(PROMPTS, SEEDS) == want
    assert said
    assert "out of memory" in said[0]

    def none_at_all(self, tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decoding.SharedPrefix, "step", none_at_all)
    with pytest.raises(RrkError, match="lower --max-tokens"):
        sampler(PROMPTS, SEEDS)


def test_positions_end_where_the_model_does(made):
    model, tokenizer = made["gpt2"]
    prompt = "x" * 250
    ((c,),) = Sampler(model, tokenizer, max_tokens=50, temperature=0)([prompt], [[1]])
    assert len(c.prompt) + len(c.ids) <= 256
    assert c.finish in ("length", "eos")
    with pytest.raises(RrkError, match="the model reads 256"):
        Sampler(model, tokenizer)(["x" * 300], [[1]])


def test_bf16_draws_one_problem_at_a_time_unless_it_may_mix(tmp_path):
    model, tokenizer = load(make_model(tmp_path / "m"), "cpu", "bfloat16")
    sampler = Sampler(model, tokenizer, max_tokens=12)
    groups = sampler(PROMPTS, SEEDS)
    assert sampler([PROMPTS[2]], [SEEDS[2]])[0] == groups[2]


def test_a_prompt_never_ends_in_an_eos_that_the_tokenizer_added(qwen):
    _, tokenizer = qwen

    class Adds:
        eos_token_id, bos_token_id, eos_token = 0, None, "<eos>"

        def __call__(self, text):
            return {"input_ids": [*tokenizer(text)["input_ids"], 0]}

    assert encode_prompt(Adds(), "def") == encode_prompt(tokenizer, "def")
    assert encode_prompt(tokenizer, "") == [0]
