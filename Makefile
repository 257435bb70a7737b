# make iterate ROUND=1     the self-training loop, on the embedded tiny world or on a model of yours (README.md)
# make test                the tests, as continuous integration runs them
# make table               the rounds so far      make setup    only the .venv      make help    all of this
#
# A target is an artifact, a folder is a round: runs/RUN/0 holds what the SFT model gave, runs/RUN/n what PPO against round
# n-1's reranker gave. Stop it anywhere and call it again: what is whole stays, what is half goes on (--resume).

ROUND ?= 1
RUN ?= tiny
SEED ?= 0
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Samples a problem: of TEST, and (TRAIN_N) of TRAIN.
N ?= 16
PYTHON ?= python3
RRK ?= .venv/bin/rrk
D := runs/$(RUN)

# With BASE, the loop is yours: TRAIN and TEST are Problem rows (rrk problems), SFT what to fine-tune on (default: TRAIN's
# canonical solutions; none: an instruct model stays as it is), DEV held-out problems that PPO's probe executes, RERANKER what the
# first reranker starts from (default: the fine-tuned model; any decoder or encoder will do), FROM what later ones start from:
# policy, the round's own (the default, but with RERANKER), or last, the reranker before. Without BASE everything is made here.
ifdef BASE
  CONFIG ?= examples/paper/rrk.toml
  FROM ?= $(if $(RERANKER),last,policy)
  SFT ?= $(TRAIN)
  ifeq ($(and $(TRAIN),$(TEST)),)
    $(error BASE needs TRAIN=problems.jsonl and TEST=problems.jsonl as well)
  endif
  ifeq ($(RUN),tiny)
    override RUN := $(notdir $(BASE))
    D := runs/$(RUN)
  endif
else
  CONFIG ?= examples/tiny/rrk.toml
  FROM ?= policy
  BASE := $(D)/data/base
  TRAIN := $(D)/data/train.jsonl
  TEST := $(D)/data/test.jsonl
  DEV := $(D)/data/dev.jsonl
  SFT := $(D)/data/sft.jsonl
  # The corpus is noisy by intent, and nobody judged it.
  UNVERIFIED := --unverified
  WORLD := $(TRAIN) $(TEST) $(DEV) $(SFT) $(BASE)/config.json
  # So small a model samples best on one core and trains best on two; meanwhile targets that wait for nothing run side by
  # side. The numbers are fixed, not the machine's: weights depend on them in the last bit.
  export OMP_NUM_THREADS := 1
  # By env, not by the shell: TERM, which make passes on, must reach rrk and not a shell before it.
  ON_TWO := env OMP_NUM_THREADS=2
  # Twice the problems teach a reranker more than twice the samples of each.
  TRAIN_N ?= 8
  MAKEFLAGS += --jobs=2
endif

TRAIN_N ?= $(N)
$(if $(filter policy last,$(FROM)),,$(error FROM=$(FROM): choose policy or last))

about_ROUND := the last round
about_RUN := folder under runs/ (with BASE: the name of the model)
about_SEED := same seed, same weights
about_JOBS := programs executed at a time
about_N := samples a problem of TEST
about_TRAIN_N := samples a problem of TRAIN
about_BASE := a code model of yours: a folder, or a name on the hub
about_TRAIN := Problem rows to train on
about_DEV := held-out problems that the probe of PPO executes
about_TEST := Problem rows that the table is about
about_SFT := rows to fine-tune on, or none
about_RERANKER := what the first reranker starts from (empty: the fine-tuned model)
about_FROM := what later rerankers start from: policy or last
about_CONFIG := options of every stage
about_RRK := another installation of rrk
about_PYTHON := makes .venv

# RRK=... names another installation, and then none is made here.
ifeq ($(origin RRK),file)
  READY := .venv/ready
  RRK_PYTHON := .venv/bin/python
else
  RRK_PYTHON := $(PYTHON)
endif

rrk := $(RRK) --config $(CONFIG)
train := $(strip $(ON_TWO) $(rrk))
again := --resume --seed $(SEED)
# A recipe runs because its target is missing or older than its inputs; --resume would take an old one for done.
stale = @rm -f $@
rounds := $(shell seq 0 $(ROUND))

.PHONY: iterate table test test-all lint setup clean help
.DELETE_ON_ERROR:

iterate: $(D)/table-$(ROUND).txt

# The head of this file, and the variables with their values.
help:
	@sed -n '1,6s/^# \{0,1\}//p' Makefile
	@echo; echo 'Variables (make iterate NAME=value), now:'
	@$(foreach v,ROUND RUN SEED JOBS N TRAIN_N BASE TRAIN DEV TEST SFT RERANKER FROM CONFIG RRK PYTHON,printf '  %-9s %-32s %s\n' '$(v)' '$($(v))' '$(about_$(v))';)

setup: .venv/ready

# Of twenty thousand modules that pip would compile (setup takes .56 of its time without) rrk reads a fifth: those are compiled by being read
# once, though many images set a variable against that. Without it rrk's own would be compiled at each of some thousand starts of a test.
COMPILED := PYTHONDONTWRITEBYTECODE= .venv/bin/python
READ := trl.trainer.sft_trainer, trl.trainer.reward_trainer, peft, matplotlib.pyplot, ray, transformers.models.llama.modeling_llama, \
  transformers.models.qwen2.modeling_qwen2
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[train,plot,ray,test]'
	@$(COMPILED) -c 'import $(READ)'
	@touch $@
	@echo "rrk is installed in .venv: '. .venv/bin/activate' puts it on your PATH, or call .venv/bin/rrk"

# Two files of tests at a time; but alone, what watches the whole machine or measures it.
ALONE := $(patsubst %,tests/sandbox/test_%.py,hostile judge kill live worker)
test: .venv/ready
	OMP_NUM_THREADS=1 $(COMPILED) -m pytest -m 'not slow' -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	$(COMPILED) -m pytest -m 'not slow' $(ALONE)

test-all: .venv/ready
	.venv/bin/python -m pytest

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf runs/$(RUN)

# ---- the tiny world and the SFT model --------------------------------------------------------------------------------

ifdef WORLD
$(WORLD) &: examples/tiny/world.py | $(READY)
	$(RRK_PYTHON) examples/tiny/world.py --output $(D)/data --seed $(SEED) $(WORLD_ARGS)
endif

$(D)/sft/rrk.json: $(SFT) | $(READY)
	$(stale)
	$(train) train-sft $(SFT) $(UNVERIFIED) --model $(BASE) --output $(D)/sft $(again)

# ---- one round: $(1) its number, $(2) the reranker's base, $(3) the generator's folder --------------------------------------

define ROUND_RULES
$(D)/$(1)/samples.jsonl: $(TRAIN) $(call made,$(3))
	$$(stale)
	@mkdir -p $(D)/$(1)
	$(rrk) sample $(TRAIN) --model $(3) -n $(TRAIN_N) --output $$@ $(again)

$(D)/$(1)/verdicts.jsonl: $(D)/$(1)/samples.jsonl
	$$(stale)
	$(rrk) execute $$< --problems $(TRAIN) --jobs $(JOBS) --output $$@ --resume

$(D)/$(1)/reranker/rrk.json: $(call made,$(2)) $(foreach r,$(filter-out $(shell seq $(1) $(ROUND) | tail -n +2),$(rounds)),$(D)/$(r)/pairs.jsonl)
	$$(stale)
	$(train) train-reranker $$(filter %.jsonl,$$^) --model $(2) --output $(D)/$(1)/reranker $(again)

$(D)/$(1)/train-scored.jsonl: $(D)/$(1)/verdicts.jsonl $(D)/$(1)/reranker/rrk.json
	$$(stale)
	$(rrk) rerank $$< --model $(D)/$(1)/reranker --output $$@ $(again)

$(D)/$(1)/test-samples.jsonl: $(TEST) $(call made,$(3))
	$$(stale)
	@mkdir -p $(D)/$(1)
	$(rrk) sample $(TEST) --model $(3) -n $(N) --output $$@ $(again)

$(D)/$(1)/test-verdicts.jsonl: $(D)/$(1)/test-samples.jsonl
	$$(stale)
	$(rrk) execute $$< --problems $(TEST) --jobs $(JOBS) --output $$@ --resume

$(D)/$(1)/greedy-samples.jsonl: $(TEST) $(call made,$(3))
	$$(stale)
	@mkdir -p $(D)/$(1)
	$(rrk) sample $(TEST) --model $(3) -n 1 --temperature 0 --output $$@ $(again)

$(D)/$(1)/greedy.jsonl: $(D)/$(1)/greedy-samples.jsonl
	$$(stale)
	$(rrk) execute $$< --problems $(TEST) --jobs $(JOBS) --output $$@ --resume

$(D)/$(1)/test-scored.jsonl: $(D)/$(1)/test-verdicts.jsonl $(D)/$(1)/reranker/rrk.json
	$$(stale)
	$(rrk) rerank $$< --model $(D)/$(1)/reranker --output $$@ $(again)

$(D)/$(1)/train-report.json: $(D)/$(1)/train-scored.jsonl
	$$(stale)
	$(rrk) eval $$< --allow-seen --quiet --output $$@

$(D)/$(1)/report.json: $(D)/$(1)/test-scored.jsonl $(D)/$(1)/greedy.jsonl
	$$(stale)
	$(rrk) eval $$< $(D)/$(1)/greedy.jsonl --quiet --output $$@

$(D)/$(1)/fusion.json: $(D)/$(1)/train-scored.jsonl
	$$(stale)
	$(rrk) train-fusion $$< --output $$@ --seed $(SEED)

$(D)/$(1)/test-fused.jsonl: $(D)/$(1)/test-scored.jsonl $(D)/$(1)/fusion.json
	$$(stale)
	$(rrk) rerank $$< --method fused --model $(D)/$(1)/fusion.json --output $$@ $(again)

$(D)/$(1)/report-fused.json: $(D)/$(1)/test-fused.jsonl $(D)/$(1)/greedy.jsonl
	$$(stale)
	$(rrk) eval $$< $(D)/$(1)/greedy.jsonl --quiet --output $$@
endef

# What round 0 mines from are random pairs; later rounds also take the wrong programs that the last reranker fell for.
define FIRST_ROUND
$(D)/0/pairs.jsonl: $(D)/0/verdicts.jsonl
	$$(stale)
	$(rrk) mine $$< --round 0 --output $$@ $(again)
endef

define LATER_ROUND
$(D)/$(1)/policy/rrk.json: $(TRAIN) $(DEV) $(call made,$(START)) $(D)/$(2)/reranker/rrk.json
	$$(stale)
	$(train) train-ppo $(TRAIN) --model $(START) --reranker $(D)/$(2)/reranker $(if $(DEV),--probe $(DEV)) --jobs $(JOBS) --output $(D)/$(1)/policy $(again)

$(D)/$(1)/scored.jsonl: $(D)/$(1)/verdicts.jsonl $(D)/$(2)/reranker/rrk.json
	$$(stale)
	$(rrk) rerank $$< --model $(D)/$(2)/reranker --undecided --output $$@ $(again)

$(D)/$(1)/pairs.jsonl: $(D)/$(1)/scored.jsonl
	$$(stale)
	$(rrk) mine $$< --hard --round $(1) --output $$@ $(again)

$(D)/$(1)/test-scored-before.jsonl: $(D)/$(1)/test-verdicts.jsonl $(D)/$(2)/reranker/rrk.json
	$$(stale)
	$(rrk) rerank $$< --model $(D)/$(2)/reranker --output $$@ $(again)

$(D)/$(1)/report-before.json: $(D)/$(1)/test-scored-before.jsonl $(D)/$(1)/greedy.jsonl
	$$(stale)
	$(rrk) eval $$< $(D)/$(1)/greedy.jsonl --quiet --output $$@

# PPO has learnt what the last reranker wrongly likes, and this one has not unlearnt all of it: each knows what the other does not.
# In the tiny world only: it reads all programs a second time, and a real model gained nothing by it (examples/tiny/README.md).
$(D)/$(1)/test-scored-both.jsonl: $(D)/$(1)/test-scored-before.jsonl $(D)/$(1)/reranker/rrk.json
	$$(stale)
	$(rrk) rerank $$< --model $(D)/$(1)/reranker --add-score --output $$@ $(again)

$(D)/$(1)/report-both.json: $(D)/$(1)/test-scored-both.jsonl $(D)/$(1)/greedy.jsonl
	$$(stale)
	$(rrk) eval $$< $(D)/$(1)/greedy.jsonl --quiet --output $$@
endef

previous = $(shell echo $$(($(1) - 1)))
# PPO starts from the SFT model each round, as in the paper. The reranker has all rounds' pairs, and starts from the policy that it
# will rank, whose likelihood is a ranking of its own, or goes on from the last one.
START := $(if $(filter none,$(SFT)),$(BASE),$(D)/sft)
policy = $(if $(filter 0,$(1)),$(START),$(D)/$(1)/policy)
# What says that a model is made; a base model or an encoder that was given is there.
made = $(if $(filter $(BASE) $(RERANKER),$(1)),,$(1)/rrk.json)
begin = $(if $(filter 0,$(1)),$(or $(RERANKER),$(START)),$(if $(filter policy,$(FROM)),$(call policy,$(1)),$(D)/$(call previous,$(1))/reranker))
$(foreach r,$(rounds),$(eval $(call ROUND_RULES,$(r),$(call begin,$(r)),$(call policy,$(r)))))
$(eval $(FIRST_ROUND))
$(foreach r,$(filter-out 0,$(rounds)),$(eval $(call LATER_ROUND,$(r),$(call previous,$(r)))))

# ---- the table ---------------------------------------------------------------------------------------------------------

# The reranker's score alone, what the last one makes of the same samples, and the score with all else that is known of them.
both = 'held-out: round $(r), rerankers $(call previous,$(r)) and $(r)=$(D)/$(r)/report-both.json'
test_reports = 'held-out: round 0, reranker 0=$(D)/0/report.json' 'held-out: round 0, fused=$(D)/0/report-fused.json' \
  $(foreach r,$(filter-out 0,$(rounds)),'held-out: round $(r), reranker $(call previous,$(r))=$(D)/$(r)/report-before.json' \
    'held-out: round $(r), reranker $(r)=$(D)/$(r)/report.json' $(if $(WORLD),$(both)) \
    'held-out: round $(r), fused=$(D)/$(r)/report-fused.json')
train_reports = $(foreach r,$(rounds),'train: round $(r), reranker $(r)=$(D)/$(r)/train-report.json')

$(D)/table-$(ROUND).txt: $(foreach r,$(rounds),$(D)/$(r)/report.json $(D)/$(r)/report-fused.json $(D)/$(r)/train-report.json $(if $(filter-out 0,$(r)),$(D)/$(r)/report-before.json $(if $(WORLD),$(D)/$(r)/report-both.json)))
	@$(rrk) eval --rounds $(test_reports) $(train_reports) > $@.part
	@mv $@.part $@
	@cat $@

table:
	@last=$$(ls $(D)/table-*.txt 2>/dev/null | sort -V | tail -1); \
	if [ -n "$$last" ]; then cat "$$last"; else \
	  echo "no table in $(D): make iterate RUN=$(RUN) makes one; runs here: $(notdir $(patsubst %/,%,$(dir $(wildcard runs/*/.)))) " >&2; exit 1; fi
