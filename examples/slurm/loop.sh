#!/usr/bin/env bash
# sample, execute, rerank and mine on a cluster: three arrays that follow each other shard by shard, then one file.
#
#   examples/slurm/loop.sh problems.jsonl MODEL RERANKER runs/slurm 32
#
# Task I of each array starts when task I before it is done. Options of sbatch by its own variables (SBATCH_PARTITION=gpu,
# SBATCH_ACCOUNT=...), of rrk by RRK_* and rrk.toml. Called again after a failure, it does what is left.
set -euo pipefail
problems=$1 model=$2 reranker=$3 out=$4 n=$5
here=$(dirname "$0")
export RRK_SLURM=${RRK_SLURM:-$here}
mkdir -p "$out"

stage() { # AFTER NAME VERB...: an array job; prints its number
  local after=$1 name=$2
  shift 2
  sbatch --parsable --array="1-$n" ${after:+--dependency=aftercorr:"$after"} \
    --output="$out/$name.%a.log" "$here/stage.sbatch" "$n" "$out/$name" "$@"
}

case $reranker in
  */*) choose=(--model "$reranker") ;;
  *) choose=(--method "$reranker") ;; # ngram, logprob-mean, ...
esac
samples=$(stage "" samples sample "$problems" --model "$model" -n "${N:-20}" ${SAMPLE:-})
verdicts=$(stage "$samples" verdicts execute "$out/samples.{shard}.jsonl" -p "$problems")
scored=$(stage "$verdicts" scored rerank "$out/verdicts.{shard}.jsonl" "${choose[@]}")
pairs=$(stage "$scored" pairs mine "$out/scored.{shard}.jsonl" --hard)
for name in scored pairs; do
  sbatch --parsable --dependency="afterok:$pairs" --output="$out/$name.merge.log" \
    "$here/merge.sbatch" "$n" "$out/$name" --by "$problems"
done
