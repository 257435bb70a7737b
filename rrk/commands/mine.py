"""`rrk mine`: verified candidates in, (chosen, rejected) pairs out."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options
from rrk.errors import UsageError


def mine(
    inputs: options.Inputs = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Also wrong programs that the reranker scored high (needs `rrk rerank`).")
    ] = False,
    random: Annotated[
        bool, typer.Option("--random", help="Only programs drawn at random; the default where --hard is not given.")
    ] = False,
    pairs_per_problem: Annotated[
        int, typer.Option("--pairs-per-problem", "-n", min=1, metavar="N", help="At most this many pairs a problem.")
    ] = 16,
    hard_share: Annotated[
        Optional[float],  # noqa: UP045 - typer reads this at run time
        typer.Option("--hard-share", min=0, max=1, help="Share of hard pairs with --hard. [default: 0.5]"),
    ] = None,
    hard_top: Annotated[
        int, typer.Option("--hard-top", min=0, metavar="K", help="Hard are the K best-scored wrong ones; 0: no limit.")
    ] = 8,
    hard_quantile: Annotated[
        float,
        typer.Option(
            "--hard-quantile",
            min=-1,
            max=1,
            metavar="Q",
            help="... that score at least this quantile of the passing ones (0 the worst, 1 the best; -1: no bar).",
        ),
    ] = 0.0,
    fill: Annotated[
        bool, typer.Option("--fill/--no-fill", help="Make up a lack of hard pairs with random ones, and conversely.")
    ] = True,
    near_duplicate: Annotated[
        float,
        typer.Option(
            "--near-duplicate",
            min=0,
            max=1,
            metavar="J",
            help="No hard negative is this like a passing program (Jaccard of token 5-grams; 1: only the same).",
        ),
    ] = 0.95,
    negatives_per_positive: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--negatives-per-positive", min=1, metavar="N", help="Use a passing program at most N times."),
    ] = None,
    margin: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--margin",
            metavar="X|share",
            help="Write this margin into every pair (Bradley-Terry with a margin); share: pairs and margins by pass_share.",
        ),
    ] = None,
    zero: Annotated[
        bool,
        typer.Option(
            "--zero",
            help="With --margin share: programs for which no test held are the worse of pairs, too. AceCoder leaves them out.",
        ),
    ] = False,
    replay: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--replay", metavar="PAIRS", help="Pairs of earlier rounds: add those of the same problems."),
    ] = None,
    replay_per_problem: Annotated[
        int,
        typer.Option("--replay-per-problem", min=1, metavar="N", help="At most this many replayed pairs a problem."),
    ] = 8,
    round: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--round", "-r", metavar="N", help="Written into every pair; the draw differs by round."),
    ] = None,
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
    """Pick (passing, failing) pairs of programs worth learning from.

    Reads executed candidates (and scored ones for --hard), the rows of a problem together. Writes TRL's
    prompt/chosen/rejected with ids, scores, kind (hard, random, replay) and the reason. Timeouts, unfinished programs and
    near-duplicates of passing programs are never hard negatives; rows without a verdict are never used.

    --margin share compares programs by the share of tests that held (rrk execute --all-tests), also among those that fail: the
    better at .8 or above, the worse above 0, .4 or more between them (AceCoder's rule); the difference is the pair's margin,
    which train-reranker uses. The summary says how many such pairs passed and failed alone would not have given. What no test
    held for is left out by that rule, and is often half of what fails: a reranker that has to tell such programs needs --zero
    (on the tiny world AUC .64 without, .76 with it; .79 by passed and failed).

    \b
    Examples:
      rrk mine verdicts.jsonl > pairs.jsonl
      rrk rerank --undecided -m RERANKER verdicts.jsonl | rrk mine --hard --round 1 > pairs.jsonl
      rrk execute --all-tests -p problems.jsonl candidates.jsonl | rrk mine --margin share > pairs.jsonl
      rrk mine --hard --hard-share 0.25 --hard-quantile 0.5 --replay round0.jsonl scored.jsonl -o pairs.jsonl
    """
    from rrk import jsonl, mining, rows, stage

    if random and (hard or hard_share):
        raise UsageError("--random means no hard pairs; for a mix give --hard --hard-share 0.5")
    if hard_share is not None and not hard:
        raise UsageError("--hard-share needs --hard")
    if zero and margin != "share":
        raise UsageError(
            "--zero goes with --margin share; without it programs that fail are the worse of pairs in any case"
        )
    settings = mining.MiningOptions(
        pairs=pairs_per_problem,
        hard_share=(0.5 if hard_share is None else hard_share) if hard else 0.0,
        hard_top=hard_top or None,
        hard_quantile=hard_quantile if hard_quantile >= 0 else None,
        fill=fill,
        near_duplicate=near_duplicate,
        negatives_per_positive=negatives_per_positive,
        margin=_number(margin),
        round=round,
        shares=margin == "share",
        zero=zero,
    )
    earlier: dict[tuple[str, str], list[dict]] = {}
    for pair in jsonl.read(replay or []):
        rows.need(pair, "chosen")
        earlier.setdefault(rows.problem_key(pair), []).append(pair)

    class Work:
        """Pairs of one problem after another; the counts go into the summary line."""

        def __init__(self) -> None:
            self._counted = mining.Figures()

        @property
        def figures(self) -> dict[str, int]:
            return dict(self._counted.counts)

        def __call__(self, problems):
            for candidates in problems:
                pairs = mining.mine(candidates, settings, seed=seed, figures=self._counted)
                old = mining.replay(earlier.get(rows.problem_key(candidates[0]), ()), replay_per_problem, seed=seed)
                self._counted.counts["replay"] += len(old)
                yield pairs + old

    stage.run(
        "mine",
        inputs or [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={**vars(settings), "seed": seed, "replay": replay, "replay_per_problem": replay_per_problem},
        work=Work(),
        unit="problem",
        validate=mining.validate_shares if settings.shares else mining.validate,
        unsorted=unsorted,
    )


def _number(margin):
    if margin in (None, "share"):
        return None
    try:
        return float(margin)
    except ValueError:
        raise UsageError(f"--margin {margin}: a number, or share") from None
