"""The sampler against transformers: the same greedy tokens, the same log-probabilities, the same distribution, any batch."""

from __future__ import annotations

import json
from collections import Counter

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rrk.errors import RrkError  # noqa: E402
from rrk.generation import decoding  # noqa: E402
from rrk.generation.continuous import PROMPT  # noqa: E402
from rrk.generation.models import encode_prompt, load  # noqa: E402
from rrk.generation.problems import Ask, trial_text  # noqa: E402
from rrk.generation.sampler import Sampler  # noqa: E402
from rrk.generation.shelf import FIRST, width  # noqa: E402
from rrk.generation.slots import Slots  # noqa: E402
from rrk.generation.stopping import StopStrings  # noqa: E402
from rrk.generation.tasks import Order, Sample, Work  # noqa: E402
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


def test_batches_share_plain_attention_and_rows_fill_up_with_windows_and_caps_too(made):
    exact = {kind: not Sampler(*made[kind], max_tokens=4).is_continuous() for kind in KINDS}
    assert exact == {"qwen2": True, "llama": True, "gpt2": True, "mistral": False, "gemma2": False}
    assert all(Sampler(*made[kind], max_tokens=4, exact=False).is_continuous() for kind in KINDS)


def test_attention_that_is_not_ours_to_compute_is_drawn_by_transformers_cache(made):
    """Bloom's position biases: neither way of ours takes them, and it is drawn all the same, one problem at a time."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=294, hidden_size=32, n_layer=2, n_head=4, eos_token_id=0, initializer_range=0.3)
    model = BloomForCausalLM(config).eval()
    said: list[str] = []
    sampler = Sampler(model, made["qwen2"][1], max_tokens=6, exact=False, notice=said.append)
    assert not sampler.is_continuous()
    assert ["one problem at a time" in text for text in said] == [True]
    for group in sampler(PROMPTS, SEEDS):
        for c in group:
            with torch.no_grad():
                logits = model(torch.tensor([c.prompt + c.ids])).logits[0, len(c.prompt) - 1 : -1]
            each = logits.log_softmax(-1).gather(-1, torch.tensor(c.ids).unsqueeze(-1)).squeeze(-1)
            assert c.logprobs == pytest.approx(each.tolist(), abs=1e-3)
            assert c.logprob == pytest.approx(float(each.sum()), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [{"exact": True}, {"exact": False}, {"exact": False, "rows": 2}], ids=str)
def test_greedy_tokens_equal_generate(made, kind, way):
    model, tokenizer = made[kind]
    drawn = Sampler(model, tokenizer, temperature=0, max_tokens=40, **way)(PROMPTS, [[0]] * len(PROMPTS))
    for (completion,) in drawn:
        head = torch.tensor([completion.prompt])
        want = model.generate(head, attention_mask=torch.ones_like(head), max_new_tokens=40, do_sample=False)
        assert completion.ids == want[0, head.shape[1] :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("temperature", "top_p", "exact"), [(1.0, 1.0, True), (0.7, 0.8, True), (0.7, 0.8, False)])
def test_logprob_is_that_of_a_full_pass_at_temperature_one(made, kind, temperature, top_p, exact):
    model, tokenizer = made[kind]
    how = {"temperature": temperature, "top_p": top_p, "exact": exact}
    groups = Sampler(model, tokenizer, max_tokens=40, rows=7, **how)(PROMPTS, SEEDS)
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
    assert whole.batches.mix, "float32 on a CPU must be able to mix"
    for rows in (1, 2, 7):
        assert Sampler(model, tokenizer, max_tokens=40, rows=rows, mix=True)(PROMPTS, SEEDS) == together
    for i, prompt in enumerate(PROMPTS):
        assert whole([prompt], [SEEDS[i]]) == [together[i]]
        assert whole([prompt], [SEEDS[i][3:4]])[0][0] == together[i][3]
    assert whole(PROMPTS[::-1], SEEDS[::-1]) == together[::-1]


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.6, 0), (1.0, 5), (0.8, 9)])
def test_the_first_token_has_the_distribution_of_the_model(qwen, top_p, top_k):
    model, tokenizer = qwen
    n, temperature = 4000, 0.5
    how = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    (group,) = Sampler(model, tokenizer, **how, max_tokens=1)(["def"], [range(n)])
    with torch.no_grad():
        logits = model(torch.tensor([group[0].prompt])).logits[0, -1].double() / temperature
    order = logits.argsort(descending=True)[: top_k or len(logits)]
    p = torch.zeros_like(logits).index_put_((order,), logits[order].softmax(-1))
    kept = order[: int((p[order].cumsum(-1) < top_p).sum()) + 1]
    p = torch.zeros_like(p).index_put_((kept,), p[kept] / p[kept].sum())
    counts = torch.bincount(torch.tensor([c.ids[0] for c in group]), minlength=len(p)).double()
    assert not counts[p == 0].any()
    often = p > 0.002
    deviation = (counts[often] - n * p[often]) / (n * p[often] * (1 - p[often])).sqrt()
    assert deviation.abs().max() < 4.5
    assert deviation.std() < 1.5


@pytest.mark.parametrize("exact", [True, False])
def test_a_row_ends_at_each_eos_of_the_generation_config_and_its_text_before_it(tmp_path, exact):
    """Chat models have several. The same numbers draw the same tokens, so a program is the old one, cut at the first of them."""
    folder = make_model(tmp_path / "m")
    how = {"max_tokens": 40, "exact": exact}
    alone = [c for group in Sampler(*load(folder, "cpu"), **how)(PROMPTS, SEEDS) for c in group]
    often = Counter(token for c in alone for token in c.ids if token > 1).most_common()
    ends = {0, often[0][0], often[5][0]}
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": sorted(ends)}))
    model, tokenizer = load(folder, "cpu")
    several = [c for group in Sampler(model, tokenizer, **how)(PROMPTS, SEEDS) for c in group]
    for before, now in zip(alone, several, strict=True):
        at = next((n for n, token in enumerate(before.ids) if token in ends), None)
        assert now.ids == (before.ids if at is None else before.ids[: at + 1])
        assert now.finish == ("length" if at is None else "eos")
        assert now.text == tokenizer.decode(before.ids[:at])
    assert {c.ids[-1] for c in several if c.finish == "eos"} == ends
    assert {c.finish for c in several} == {"eos", "length"}, "some must not meet one"


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


def same(one, other):
    """The same programs; log-probabilities of rows in other company differ by rounding."""
    for a, b in zip([c for group in one for c in group], [c for group in other for c in group], strict=True):
        assert (a.prompt, a.ids, a.text, a.finish) == (b.prompt, b.ids, b.text, b.finish)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_rows_filled_from_all_problems_give_the_programs_of_exact_batches(qwen, rows):
    """In float32 on these prompts no token stands so close that rounding decides; every program, by its own seed alone."""
    model, tokenizer = qwen
    want = Sampler(model, tokenizer, max_tokens=40, top_p=0.9, exact=True)(PROMPTS, SEEDS)
    same(Sampler(model, tokenizer, max_tokens=40, top_p=0.9, exact=False, rows=rows)(PROMPTS, SEEDS), want)


def test_problems_come_and_go_as_a_stream_and_none_waits_for_more_than_it_must(qwen):
    """With a slow producer what is in hand is finished first, in order; a file of any length is read only so far ahead."""
    model, tokenizer = qwen
    stock = [Ask(PROMPTS[i % len(PROMPTS)], [7 * i + j for j in range(1 + i % 3)], ("e",)) for i in range(120)]
    want = Sampler(model, tokenizer, max_tokens=12, exact=False)(
        [a.prompt for a in stock], [a.seeds for a in stock], [a.stop for a in stock]
    )
    given: list[Ask] = []

    def asks():
        for ask in stock:
            given.append(ask)
            yield ask

    sampler = Sampler(model, tokenizer, max_tokens=12, exact=False, rows=4)
    came, furthest = [], 0
    for asked, group in sampler.stream(asks()):
        came.append((asked, group))
        furthest = max(furthest, len(given) - len(came))
    assert [asked for asked, _ in came] == stock
    same([group for _, group in came], want)
    assert furthest <= 8 * 4 + 1
    given.clear()
    slow = sampler.stream(asks(), ready=lambda: False)
    for n in range(1, 4):
        next(slow)
        assert len(given) == n


def test_an_impossible_prompt_is_refused_after_what_came_before_it(made):
    model, tokenizer = made["gpt2"]
    for exact in (True, False):
        stream = Sampler(model, tokenizer, max_tokens=5, exact=exact).stream(
            [Ask("d", [1, 2]), Ask("x" * 300, [3]), Ask("e", [4])]
        )
        assert len(next(stream)[1]) == 2
        with pytest.raises(RrkError, match="the model reads 256"):
            next(stream)


@pytest.mark.parametrize("exact", [True, False])
def test_less_memory_means_fewer_rows_and_the_same_results(qwen, monkeypatch, exact):
    model, tokenizer = qwen
    want = Sampler(model, tokenizer, max_tokens=10)(PROMPTS, SEEDS)
    kind = decoding.SharedPrefix if exact else Slots
    real = kind.step
    calls = []

    def scarce(self, tokens, *more):
        calls.append(len(tokens))
        if len(tokens) > 3 and len(calls) > 4:  # in the midst of things
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, tokens, *more)

    said: list[str] = []
    sampler = Sampler(model, tokenizer, max_tokens=10, exact=exact, mix=exact or None, notice=said.append)
    assert sampler.is_continuous() != exact
    monkeypatch.setattr(kind, "step", scarce)
    same(sampler(PROMPTS, SEEDS), want)
    assert said
    assert "out of memory" in said[0]

    def none_at_all(self, tokens, *more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kind, "step", none_at_all)
    with pytest.raises(RrkError, match="lower --max-tokens"):
        sampler(PROMPTS, SEEDS)


def test_rows_of_any_length_are_read_as_alone_while_others_come_grow_and_go(qwen):
    """On shelves of several widths, over the step at which a row moves to a wider one, and after others have ended."""
    model, slots = qwen[0], Slots(qwen[0])
    lengths = [3, FIRST - 2, FIRST - 1, FIRST, 700, 5, 2 * FIRST - 1, 9, 80, 7]
    heads = [[5 + (n * at) % 200 for at in range(length + 1)] for n, length in enumerate(lengths, 3)]
    ids = {}
    with torch.no_grad():
        for begin in (0, 5):
            for n, prompt in zip(range(begin, begin + 5), slots.read(heads[begin : begin + 5]), strict=True):
                slots.add([n], [prompt])
                ids[n] = list(heads[n])
            for step in range(4):
                order = slots.line_up()
                logits = slots.step([ids[n][-1] for n in order])
                for n, own in zip(order, logits, strict=True):
                    torch.testing.assert_close(own, model(torch.tensor([ids[n]])).logits[0, -1], atol=1e-4, rtol=1e-4)
                    ids[n].append(7 + (n + step) % 90)
            slots.drop([0, 2])
        assert sorted(slots.line_up()) == [1, *range(3, 10)]


def test_memory_follows_the_tokens_in_hand_not_the_longest_prompt_times_the_rows(qwen, monkeypatch):
    """A prompt of 2,000 tokens among short ones: a buffer of one width for all rows would hold 15 times what is needed, and
    twice that while it grew; and afterwards memory is what it was before."""
    model, tokenizer = qwen
    held, rows, room = [], 16, 40
    real = Slots.step

    def step(self, tokens):
        places = [place for shelf in self._shelves.values() for place in shelf.places]
        held.append((self.bytes, len(places), max(place.length for place in places)))
        return real(self, tokens)

    monkeypatch.setattr(Slots, "step", step)
    sampler = Sampler(model, tokenizer, max_tokens=room, exact=False, rows=rows)
    asks = [Ask("", range(4), ids=[5] * (2000 if n == 20 else 9)) for n in range(40)]
    assert all(len(group) == 4 for _, group in sampler.stream(asks))
    token, most = sampler.token_bytes(), max(have for have, _, _ in held)
    assert most <= 1.5 * rows * width(PROMPT + room) * token
    long = next(n for n, (_, _, longest) in enumerate(held) if longest > 1000)
    short = [have for have, _, longest in held[long:] if longest < 1000]
    assert short, "the long ones must end before the others"
    assert max(short) <= rows * FIRST * token
    assert most * 2 < rows * 2000 * token, "what one buffer for all rows would be"


def test_a_shelf_grows_by_rows_and_gives_them_back(qwen):
    slots = Slots(qwen[0])
    (prompt,) = slots.read([[5] * 300])
    with torch.no_grad():
        slots.add(range(16), [prompt] * 16)
        whole = slots.bytes
        slots.drop(range(2, 16))
        assert slots.bytes * 2 <= whole
        assert slots.line_up() == [0, 1]
        two = slots.step([5, 6])
    slots.drop([0, 1])
    assert slots.bytes == 0
    want = qwen[0](torch.tensor([[5] * 300, [5] * 299 + [6]])).logits[:, -1]
    torch.testing.assert_close(two, want, atol=1e-4, rtol=1e-4)


def test_positions_end_where_the_model_does(made):
    model, tokenizer = made["gpt2"]
    prompt = "x" * 250
    ((c,),) = Sampler(model, tokenizer, max_tokens=50, temperature=0)([prompt], [[1]])
    assert len(c.prompt) + len(c.ids) <= 256
    assert c.finish in ("length", "eos")
    with pytest.raises(RrkError, match="the model reads 256"):
        Sampler(model, tokenizer)(["x" * 300], [[1]])


def test_bf16_fills_its_rows_from_all_problems_and_draws_one_at_a_time_if_it_must_be_exact(tmp_path):
    model, tokenizer = load(make_model(tmp_path / "m"), "cpu", "bfloat16")
    assert Sampler(model, tokenizer).is_continuous()
    assert all(len(group) == 5 for group in Sampler(model, tokenizer, max_tokens=12, rows=8)(PROMPTS, SEEDS))
    exact = Sampler(model, tokenizer, max_tokens=12, exact=True)
    groups = exact(PROMPTS, SEEDS)
    assert exact([PROMPTS[2]], [SEEDS[2]])[0] == groups[2]


def test_the_trial_of_our_decoding_is_on_text_for_on_random_ids_bfloat16_says_nothing(qwen):
    model, tokenizer = qwen
    assert tokenizer.decode(trial_text(model, tokenizer, 12)).startswith("def total(n")
    assert len(trial_text(model, tokenizer, 300)) == 300
    seen: list[list[int]] = []

    def forced(prompts, owners, more):
        seen.extend(prompts)
        raise RuntimeError

    assert not Sampler(model, tokenizer).agrees(forced)
    assert seen == [trial_text(model, tokenizer, 12)[:length] for length in (4, 9)]


def test_autocast_draws_what_its_own_full_pass_predicts(qwen):
    """PPO's way with --bf16: float32 weights, keys and values in bfloat16."""
    model, tokenizer = qwen
    sampler = Sampler(model, tokenizer, max_tokens=20, bf16=True, exact=False, rows=6)
    assert sampler.is_continuous()
    for group in sampler(PROMPTS, SEEDS):
        for c in group:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = model(torch.tensor([c.prompt + c.ids])).logits[0, len(c.prompt) - 1 : -1].float()
            want = float(logits.log_softmax(-1).gather(-1, torch.tensor(c.ids).unsqueeze(-1)).sum())
            assert c.logprob == pytest.approx(want, abs=0.5, rel=0.05)


def test_a_prompt_never_ends_in_an_eos_that_the_tokenizer_added(qwen):
    _, tokenizer = qwen

    class Adds:
        eos_token_id, bos_token_id, eos_token = 0, None, "<eos>"

        def __call__(self, text):
            return {"input_ids": [*tokenizer(text)["input_ids"], 0]}

    assert encode_prompt(Adds(), "def") == encode_prompt(tokenizer, "def")
    assert encode_prompt(tokenizer, "") == [0]


def test_who_watches_hears_of_all_programs_before_their_problem_is_out(made):
    """In problems: what Progress counts ahead of the rows."""
    heard: list[float] = []

    class Engine:
        about, cost = {}, {}
        sampler = Sampler(*made["qwen2"], max_tokens=12, exact=False, rows=3)

        def watch(self, ended):
            self.sampler.ended = ended

        def __call__(self, tasks):
            for task, group in self.sampler.stream(tasks, tasks.ready):
                yield task, [Sample(c.text, c.logprob, len(c.ids), c.finish) for c in group]

    work = Work(Order("m", samples=4, max_tokens=12), Engine)
    work.watch(heard.append)
    items = [{"task_id": f"t/{i}", "language": "py", "prompt": prompt, "tests": ""} for i, prompt in enumerate(PROMPTS)]
    for out, _ in enumerate(work(Ready(items)), 1):
        assert sum(heard) >= out
    assert sum(heard) == pytest.approx(len(PROMPTS))
    assert len(heard) > len(PROMPTS)


class Ready(list):
    """Items that nobody has to wait for."""

    def __iter__(self):
        return self

    def __next__(self):
        if not self:
            raise StopIteration
        return self.pop(0)

    def ready(self) -> bool:
        return True
