"""`rrk sample`: problems in, n programs a problem out."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import Unjudged, UsageError

AHEAD = 64  # problems that a worker of a cluster has in hand: rows are filled from all of them


def sample(
    inputs: options.Inputs = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="A checkpoint's folder, a hub name, or the server's name."),
    ] = "",
    n: Annotated[int, typer.Option("--samples", "-n", min=1, metavar="N", help="Programs a problem.")] = 20,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy decoding.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the smallest set of tokens this likely.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw from so many likeliest tokens; 0: from all.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest program, in tokens.")] = 256,
    stop: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            metavar="TEXT", help="End a program before this text, beside the problem's stop_tokens; \\n works."
        ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            "--for", metavar="programs|tests", help="tests: asserts for the function, for execute --evidence."
        ),
    ] = "programs",
    until_examples: Annotated[
        bool,
        typer.Option(
            "--until-examples", help="No more of a problem's n once one has passed the examples that its prompt shows."
        ),
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask an instruct model by its chat template; the program is taken out.")
    ] = False,
    system: Annotated[str, typer.Option(metavar="TEXT", help="--chat: a system message.")] = "",
    instruction: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE", help="--chat: what is asked, with {prompt} and {language}. [default: ours]"),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="transformers|ray|openai", help="Here, on a cluster, or on a server.")
    ] = "transformers",
    base_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="URL", envvar="OPENAI_BASE_URL", help="Of an OpenAI-compatible server: http://host:8000/v1"
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, envvar="RRK_JOBS", help="Requests at a time (openai).")
    ] = 8,
    request_timeout: Annotated[float, typer.Option(metavar="S", help="Longest wait for an answer (openai).")] = 600.0,
    rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N",
            min=1,
            help="Programs drawn at a time, of all problems; fewer after long prompts. [default: as memory allows]",
        ),
    ] = None,
    exact: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--exact/--fast", help="No bit depends on what is drawn together. [default: exact for small models]"
        ),
    ] = None,
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
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write n programs for each problem with a code model.

    Adds completion_id, completion, model, temperature, top_p, top_k (if given), max_tokens, seed, logprob (nats, the sum
    over the drawn tokens under the model at temperature 1), prob (the sum of their probabilities), tokens and finish_reason
    (eos, stop, length) to the problem's own fields; its tests and solutions stay behind. A program's random numbers depend
    on seed, task_id and completion_id alone, and with --exact its bytes do: shards and resumed runs on one kind of machine
    then agree. That is the default for models under 20M parameters in float32 on a CPU. Elsewhere the last bits of logits
    depend on the rows that are computed together, and now and then a token does; --exact then draws one problem at a time.
    The model's own top_k is not used, nor are its penalties; a line says so.

    --engine openai takes any server with /completions, such as `vllm serve MODEL`; its key comes from OPENAI_API_KEY alone, for
    a command line can be read by everybody on the machine. logprob and prob are null where it sends none, and
    are the server's notion of them otherwise (vLLM: of the plain model, as here).

    --engine ray loads the model on every node of a Ray cluster (extra `ray`), once for each GPU, and shares out the problems.

    --chat asks through the model's chat template (a server: /chat/completions). The program is taken out of the answer: the
    fenced block that defines the function, with the prompt's imports before it, `completion_kind: full`. The answer stays in
    `response`, and logprob, prob and tokens are the whole answer's. Base models want no --chat.

    --until-examples runs each program in the sandbox on the examples in its prompt (as `rrk execute --examples`), while others
    are drawn. A problem gets one, then as many again as it has, up to n, until one has passed: few where it is easy, n where it is
    hard. Rows have `evidence`, and `rrk rerank --method examples` takes the one that passed. Of pass@1 and pass@k they tell
    nothing, and `rrk eval` says so.

    --for tests asks for asserts as CodeT does (Python) and gives one row {task_id, samples} a problem.

    \b
    Examples:
      rrk sample problems.jsonl -m Qwen/Qwen2.5-Coder-0.5B -n 20 --temperature 0.8 --top-p 0.95 -o candidates.jsonl
      rrk sample problems.jsonl -m runs/sft -n 1 --temperature 0 | rrk execute -p problems.jsonl
      rrk sample problems.jsonl -m Qwen/Qwen2.5-Coder-0.5B-Instruct --chat -n 1 --temperature 0 --max-tokens 512
      rrk sample problems.jsonl -m deepseek-coder --engine openai --base-url http://localhost:8000/v1 -j 32 -o out.jsonl
      rrk sample problems.jsonl -m runs/sft -n 16 --until-examples | rrk rerank --method examples --ties logprob-mean --top 1
      rrk sample problems.jsonl -m runs/sft --engine ray --ray-address auto -o candidates.jsonl
      rrk sample problems.jsonl -m runs/sft --for tests -n 50 -o generated_tests.jsonl
    """
    import os

    from rrk import manifest, model_names, stage
    from rrk.generation import tasks

    if not model:
        raise UsageError("give the model with -m")
    if what not in ("programs", "tests"):
        raise UsageError("--for is 'programs' or 'tests'")
    if top_k < 0:
        raise UsageError("--top-k is a number of tokens, 0: all of them")
    if not 0 < top_p <= 1:
        raise UsageError("--top-p lies within (0, 1]")
    order = tasks.Order(
        model=model,
        samples=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens=max_tokens,
        seed=seed,
        stop=options.texts(stop),
        tests=what == "tests",
        chat=chat,
        system=system,
        instruction=options.content(instruction),
    )
    if (system or instruction) and not chat:
        raise UsageError("--system and --instruction belong to --chat")
    if until_examples and (order.tests or temperature == 0):
        what = "draws programs, no tests" if order.tests else "draws again, and --temperature 0 gives the same program"
        raise UsageError(f"--until-examples {what}")
    if chat and order.tests:
        raise UsageError("--for tests continues a text; leave --chat out")

    def say(text: str) -> None:
        if not quiet:
            typer.echo(f"rrk sample: {text}", err=True)

    # Loaded with the first problem: a missing input or a finished output should not cost a model's loading.
    own = engine in ("transformers", "ray")
    if own:
        model_names.check(model)
        start: Any = partial(_engine, order, device, dtype, rows, exact, not options.own_threads())
    elif engine == "openai":
        if not base_url:
            raise UsageError("--engine openai needs --base-url, as http://localhost:8000/v1")
        from rrk.generation import openai

        start = partial(openai.Engine, order, base_url, os.environ.get("OPENAI_API_KEY"), jobs, request_timeout, say)
    else:
        raise UsageError("--engine is 'transformers', 'ray', or 'openai' (vLLM: run `vllm serve MODEL` and use openai)")
    work: Any
    check = partial(tasks.validate, order=order)
    if until_examples:
        start, check = partial(_until, start, order), partial(_validate, order, _examples())
    if engine == "ray":
        gpus = 0 if device == "cpu" else num_gpus
        work = options.cluster("sample", partial(_Work, order, start), ray_address, quiet, gpus=gpus, ahead=AHEAD)
    else:
        work = tasks.Work(order, partial(start, say=say) if own else start)
    # The same model in the same way: on a cluster too.
    where = {"dtype": dtype, "checkpoint": manifest.digest(model)} if own else {"url": base_url}
    stage.run(
        "sample",
        inputs or [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={
            **vars(order),
            "engine": "transformers" if own else engine,
            **where,
            **({"until": "examples"} if until_examples else {}),
        },
        work=work,
        validate=check,
    )
    for note in getattr(work, "notes", ()):
        say(note)
    if lacking := getattr(work, "figures", {}).get("without evidence"):
        raise Unjudged(f"{lacking} programs could not be run on examples; see 'evidence.error'")


def _engine(order, device: str, dtype: str, rows: int | None, exact: bool | None, fit_threads: bool, say):
    """The model in this process."""
    from rrk.generation import local, threads
    from rrk.progress import waiting

    with waiting(f"rrk sample: loading {order.model}"):
        engine = local.Engine(order, device, dtype, rows, exact, say)
    if fit_threads:
        threads.fit(engine.model)
    return engine


def _examples():
    """Runs programs on the examples in prompts, beside the drawing."""
    import os

    from rrk.sandbox.live import Live

    return Live(jobs=max(1, min(8, len(os.sched_getaffinity(0)) // 2)))


def _until(start, order, **how):
    """The engine that `start` makes, which draws no more than the examples want."""
    from rrk.generation.until import Until

    examples = _examples()
    try:
        examples.try_out()
        return Until(start(**how), examples, order)
    except BaseException:
        examples.close()
        raise


def _validate(order, examples, row) -> None:
    from rrk.generation import tasks

    tasks.validate(row, order)
    examples.check(row)


class _Work:
    """What draws programs on a node of a cluster; `notes` are what the user should know."""

    def __init__(self, order, start, cores: int) -> None:
        from rrk.generation import tasks

        self.notes: list[str] = []
        self._work = tasks.Work(order, partial(start, say=self.notes.append))

    @property
    def figures(self) -> dict[str, Any]:
        return self._work.figures

    def __call__(self, items):
        return self._work(items)
