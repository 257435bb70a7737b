#!/usr/bin/env bash
# The self-training loop in one page, with pipes: what `make iterate` does, without its bookkeeping.
#   examples/loop.sh [FOLDER] [ROUNDS]          # the tiny world; a few minutes on two cores
set -euo pipefail
runs=${1:-runs/loop}
rounds=${2:-1}
data=$runs/data
# Of an installation of yours (RRK, PYTHON), of the one that is active, or of the one that make set up here.
venv=
command -v rrk > /dev/null || venv=.venv/bin/
rrk=${RRK:-${venv}rrk}
python=${PYTHON:-${venv}python}
command -v "$python" > /dev/null || python=python3
command -v "${rrk%% *}" > /dev/null || { echo "loop.sh: no rrk here: 'make setup' makes .venv, or set RRK" >&2; exit 1; }
rrk="$rrk --config examples/tiny/rrk.toml"

"$python" examples/tiny/world.py --output "$data"
$rrk train-sft "$data/sft.jsonl" --unverified --model "$data/base" --output "$runs/sft"

# Round 0: what the fine-tuned model writes, right and wrong, teaches the first reranker.
$rrk sample "$data/train.jsonl" --model "$runs/sft" -n 8 |
  $rrk execute --problems "$data/train.jsonl" --jobs 2 |
  $rrk mine --round 0 > "$runs/pairs-0.jsonl"
$rrk train-reranker "$runs/pairs-0.jsonl" --model "$runs/sft" --output "$runs/reranker-0"

for ((n = 1; n <= rounds; n++)); do
  # PPO starts from the fine-tuned model each time; only its judge gets better.
  $rrk train-ppo "$data/train.jsonl" --model "$runs/sft" --reranker "$runs/reranker-$((n - 1))" \
    --probe "$data/dev.jsonl" --output "$runs/policy-$n"
  $rrk sample "$data/train.jsonl" --model "$runs/policy-$n" -n 8 |
    $rrk execute --problems "$data/train.jsonl" --jobs 2 |
    $rrk rerank --undecided --model "$runs/reranker-$((n - 1))" |
    $rrk mine --hard --round "$n" > "$runs/pairs-$n.jsonl"
  # The reranker starts from the policy that it will rank, and learns from the pairs of all rounds.
  $rrk train-reranker "$runs"/pairs-*.jsonl --model "$runs/policy-$n" --output "$runs/reranker-$n"
done

# Held-out problems: sample, execute, rank, and say how good that is.
$rrk sample "$data/test.jsonl" --model "$runs/policy-$rounds" -n 16 |
  $rrk execute --problems "$data/test.jsonl" --jobs 2 |
  $rrk rerank --model "$runs/reranker-$rounds" |
  $rrk eval
