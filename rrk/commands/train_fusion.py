"""`rrk train-fusion`: fit the model behind `rrk rerank --method fused`."""

from __future__ import annotations

from typing import Annotated

import typer

from rrk import options


def train_fusion(
    inputs: options.Inputs = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where the model goes (JSON).")
    ] = "fusion.json",
    folds: Annotated[int, typer.Option(min=1, help="Members, each blind to one fold of base problems.")] = 5,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    quiet: options.Quiet = False,
):
    """Combine all evidence of judged candidates (field 'passed') into one score.

    Reads rows that `rrk rerank` and `rrk execute --evidence` have added to; uses whatever is there: score, logprob, evidence,
    text, form. Problems of the training file are later scored only by the member that did not see them.

    \b
    Examples:
      rrk train-fusion judged.jsonl -o fusion.json
      rrk rerank new.jsonl --method fused -m fusion.json --top 1
    """
    import sys

    from rrk.items import Unsorted
    from rrk.jsonl import STDIN
    from rrk.reranking import fusion

    groups = Unsorted(list(inputs or [STDIN]), "problem", limit)
    problems = list(groups)
    if groups.error is not None:
        raise groups.error
    model = fusion.fit(problems, folds=folds, seed=seed)
    model.save(output)
    if not quiet:
        count = sum(map(len, problems))
        print(
            f"rrk train-fusion: {len(problems)} problems, {count} candidates, {len(model.names)} features",
            file=sys.stderr,
        )
    if not model.tells_apart:
        print(
            "rrk train-fusion: no problem has both passing and failing candidates: all of a problem are scored alike",
            file=sys.stderr,
        )
