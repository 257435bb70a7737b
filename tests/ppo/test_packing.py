"""A prompt is read once for all its programs: what the passes say of them, and what they learn, is that of separate rows."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from rrk.generation import memory, packing  # noqa: E402
from rrk.ppo.batch import WIDE, Text, collate, cut  # noqa: E402
from rrk.ppo.policy import Policy, packable  # noqa: E402
from rrk.ppo.rollout import Drawn, annotate  # noqa: E402
from rrk.ppo.trainer import Trainer  # noqa: E402
from tests.generation.tiny import make_model  # noqa: E402
from tests.ppo import world  # noqa: E402

# Programs that begin alike, an empty one, one that is its neighbour's beginning, a prompt that is another's, a prompt alone.
TEXTS = [
    Text([5, 6, 7, 8, 9], [10, 11, 0]),
    Text([5, 6, 7, 8, 9], [10, 12, 13, 14, 0]),
    Text([5, 6, 7, 8, 9], []),
    Text([5, 6, 7, 8, 9], [10]),
    Text([5, 6], [7, 8, 0]),
    Text([5, 6], [0]),
    Text([20], [21, 22]),
]
TOGETHER, ALONE = [[0, 1, 2, 3], [4, 5], [6]], [[n] for n in range(7)]
ANY = 1 << 60


def tiny(folder, kind="llama", **more) -> Policy:
    policy, _ = Policy.load(make_model(folder / kind, kind), **more)
    if policy.value_head is not None:
        torch.nn.init.normal_(policy.value_head.weight)
    return policy


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("more", [{}, {"separate": True}, {"lora_r": 4}, {"attention": "eager"}], ids=str)
def test_what_a_pass_says_of_programs_and_its_gradient_are_those_of_separate_rows(tmp_path, kind, more):
    network = tiny(tmp_path, kind, **more)
    assert network.packs == ANY
    found = []
    for rows in (TOGETHER, ALONE):
        batch = collate(TEXTS, rows, "cpu")
        seen = network(batch, 0.7, entropy=True)
        weight = torch.linspace(1, 2, len(batch.drawn))
        (weight * (seen.logprobs + 0.3 * seen.values.square())).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])
        network.zero_grad()
        found.append((batch, seen, gradient))
    (packed, one, slope), (plain, other, want) = found
    assert packed.segments is not None
    assert plain.segments is None
    assert packed.tokens < plain.tokens == sum(len(text.prompt) + len(text.ids) for text in TEXTS)
    assert packed.drawn.tolist() == plain.drawn.tolist() == [token for text in TEXTS for token in text.ids]
    for name in ("logprobs", "values", "entropy"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope, want, atol=1e-4 * float(want.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 60, 400, 100_000])
def test_rows_hold_programs_of_one_prompt_within_the_budget_and_not_too_wide(budget):
    rng = random.Random(budget)
    prompts = [[n] * rng.randint(1, 40) for n in range(12)]
    texts = [Text(rng.choice(prompts), [1] * rng.randint(0, 30)) for _ in range(60)]
    parts = cut(texts, budget, ANY)
    assert sorted(i for part in parts for row in part for i in row) == list(range(60))
    shared = 0
    for part in parts:
        widths = []
        for row in part:
            (prompt,) = {tuple(texts[i].prompt) for i in row}
            widths.append(len(prompt) + sum(len(texts[i].ids) for i in row))
            longest = max(len(prompt) + len(t.ids) for t in texts if t.prompt == list(prompt))
            assert len(row) == 1 or widths[-1] <= min(budget, WIDE * longest)
            shared += len(row) - 1
        assert len(part) * max(widths) <= budget or len(part) == len(part[0]) == 1
    assert shared == 0 if budget == 1 else shared > 10
    lengths = [len(t.prompt) + len(t.ids) for t in texts]
    assert cut(texts, budget, 0) == [[[i] for i in group] for group in memory.groups(lengths, budget)]
    assert all(len(row) == 1 or max(lengths[i] for i in row) <= 30 for part in cut(texts, budget, 30) for row in part)


def test_an_update_learns_the_same_and_reads_less(tmp_path):
    """Old log-probabilities, the reference's, and the weights after two epochs of steps."""
    torch.set_num_threads(1)
    folder = world.make_model(tmp_path / "sft")
    given = world.options(advantage="gae", epochs=2, minibatch=16)
    found = []
    for packs in (ANY, 0):
        run = Trainer(world.PROBLEMS, folder, world.reward, tmp_path / str(packs), given, None, {})
        assert run.network.packs == ANY
        assert run.reference.packs == ANY
        run.network.packs = packs
        row = run.step()
        row.pop("explained_variance")
        found.append((torch.cat([p.detach().flatten() for p in run.learner.trained]), row))
    (one, told), (other, want) = found
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    for name in ("tokens_read", "tokens_trained"):
        assert told.pop(name) < want.pop(name), name
    assert told == pytest.approx(want, abs=1e-5)


def test_by_problem_a_minibatch_holds_whole_problems_and_reads_each_prompt_once(tmp_path):
    torch.set_num_threads(1)
    folder = world.make_model(tmp_path / "sft")
    read, parts = {}, {}
    for together in (False, True):
        given = world.options(prompts_per_update=4, samples=4, minibatch=8, epochs=1, by_problem=together)
        run = Trainer(world.PROBLEMS, folder, world.reward, tmp_path / str(together), given, None, {})
        learner, kept = run.learner, parts.setdefault(together, [])
        run.learner.backward = lambda rollout, part, learner=learner, kept=kept: (
            kept.append(part.tolist()) or type(learner).backward(learner, rollout, part)
        )
        read[together] = run.step()["tokens_trained"]
    assert read[True] < read[False]
    for found in parts.values():
        assert sorted(i for part in found for i in part) == list(range(16))
    whole = [[i // 4 for i in part] for part in parts[True]]
    assert all(len(part) == 8 and len(set(part)) == 2 for part in whole)


def test_looking_at_programs_gives_each_its_own_whatever_stands_beside_it(tmp_path):
    network = tiny(tmp_path)
    drawn = [Drawn(list(t.prompt), list(t.ids), "", "eos") for t in [*TEXTS, TEXTS[1], TEXTS[6]]]
    read = annotate(drawn, network, network, 1.0, 0.5, 1000, "cpu")
    assert read < sum(len(t.prompt) + len(t.ids) for t in TEXTS)
    for d in drawn:
        alone = network(collate([d], [[0]], "cpu"))
        sharp = network(collate([d], [[0]], "cpu"), 0.5)
        torch.testing.assert_close(d.logprobs, alone.logprobs.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(d.values, alone.values.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(d.reference, sharp.logprobs.detach(), atol=1e-5, rtol=1e-5)


def test_architectures_that_do_not_read_packed_rows_as_alone_are_found_out(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3))
    assert packable(bloom.eval()) == 0
    network = tiny(tmp_path, "mistral")
    assert network.packs == packing.window(network.causal.config) == 16
    long = [Text([5] * 10, [6] * 6), Text([5] * 10, [7] * 6), Text([5] * 10, [6] * 7), Text([5] * 10, [7] * 9)]
    assert sorted(row for part in cut(long, 1000, network.packs) for row in part) == [[0, 1], [2], [3]]
    packed = network(collate(long, [[0, 1]], "cpu")).logprobs
    alone = network(collate(long, [[0], [1]], "cpu")).logprobs
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
