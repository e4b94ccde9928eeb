"""Tasks of lm-evaluation-harness: found, identified by their content, and evaluated by the library."""

import contextlib
import copy
import hashlib
import json
import logging
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from uwc import progress
from uwc.data.prompts import Renderer
from uwc.errors import ConfigError, ModelError, UserError, brief, listed, shortened
from uwc.io import digest, expanded, file_digest
from uwc.metrics.stats import COMBINATIONS
from uwc.metrics.tasks import PREFIX, HarnessSettings, Task, TaskInput, TaskScore
from uwc.models.chunks import NoDigest, kept
from uwc.models.model import Model
from uwc.models.token_scores import Floats
from uwc.registry import unknown_name

RESAMPLES = 400
"""Draws of the library's bootstrap standard errors; of metrics of texts that it limits to 100, so many."""
_SLOW = ("bleu", "chrf", "chrf++", "ter")
_NOISE = re.compile(
    r"not of type `str`|already-initialized model|is defined, but (aggregation|higher_is_better) is not"
)


def require_harness() -> None:
    """Raise UserError if lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError("a task needs lm-evaluation-harness; install it with: pip install 'uwc[harness]'")


def find_tasks(labels: Sequence[str], settings: HarnessSettings, *, where: str) -> tuple[Task, ...]:
    """The tasks of these names, with their questions, before any model is loaded.

    Args:
        labels: ``TASK`` or ``TASK:METRIC`` or ``TASK:METRIC,FILTER``.
        settings: of all of them.
        where: the option or key in messages.

    Raises:
        UserError: the library is not installed.
        ConfigError: the folder of further tasks is missing, a task or metric is unknown, its questions cannot be read,
            or it does not take the number of solved questions.
    """
    if not labels:
        return ()
    require_harness()
    folder = None if settings.include_path is None else expanded(settings.include_path)
    if folder is not None and not os.path.isdir(folder):
        raise ConfigError(
            f"harness.include_path: {brief(str(settings.include_path), 200)} is not a folder; give the one with the "
            "YAML files of your tasks"
        )
    names = [label.partition(":")[0] for label in labels]
    with _own_random_state(settings.seed), _quiet():
        manager = None if folder is None else _manager(folder, defaults=False)
        # all tasks of the library are listed in 10 seconds: only if one of them may be meant
        if manager is None or not all(_has(manager, name) for name in names):
            manager = _manager(folder, defaults=True)
    for name in names:
        if name not in manager.all_tasks:
            raise ConfigError(f"{where}: {_unknown(name, manager.all_tasks, folder)}")
    with _own_random_state(settings.seed):  # reading questions may draw from them
        return tuple(_task(label, manager, settings, folder, where) for label in labels)


def evaluate_task(task: Task, model: Model) -> TaskScore:
    """The score of a model on a task, by the library's `evaluate` on the model in memory.

    The chat template is applied as to the model's other prompts, with its system message, date and arguments, unless
    the settings say otherwise; a plain prompt is that of the task, after the system message. Prompts that are too long
    are cut on the left by the library, which is said. A run that was interrupted finds the scores that it had.

    Raises:
        ConfigError: the task cannot be carried out with this model, or has no such metric.
    """
    chat = model.template.uses_chat(model.tokenizer) if task.settings.chat is None else task.settings.chat
    if chat:
        require_chat_template(model.tokenizer)

    def determining() -> list[object]:
        return [
            "task",
            task.name,
            task.metric,
            task.definition,
            repr(task.settings),
            chat,
            *_prompting(model),
            model.model,
        ]

    return TaskScore.model_validate_json(kept(determining, lambda: _evaluated(task, model, chat).model_dump_json()))


def require_chat_template(tokenizer: Any) -> None:
    """Raise ConfigError if a tokenizer has no chat template, which ``harness.chat`` applies."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("harness.chat: the model's tokenizer has no chat template; leave it out")


def _prompting(model: Model) -> list[object]:
    """What determines the tokens of a prompt. Raises NoDigest for a tokenizer that cannot be compared."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise NoDigest("a tokenizer in Python")
    return [backend.to_str(), model.tokenizer.chat_template, repr(model.template)]


def _evaluated(task: Task, model: Model, chat: bool) -> TaskScore:
    evaluate = import_module("lm_eval.evaluator").evaluate
    told: list[str] = []
    with _own_random_state(task.settings.seed), _quiet(told):
        wrapped = _wrapped(model, chat, task.settings.batch_size)
        for of_task in task.loaded["tasks"].values():
            of_task.set_fewshot_seed(seed=task.settings.seed)
        try:
            found = evaluate(
                lm=wrapped,
                task_dict=task.loaded,
                limit=task.settings.limit,
                bootstrap_iters=0,
                log_samples=True,
                system_instruction=model.template.system or None,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
            )
        except (KeyError, ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
            raise ConfigError(
                f"task {task.name}: lm-evaluation-harness says {_said(error)}; correct the task's YAML file or the "
                "settings of harness, or leave the task out"
            ) from error
        score = _read(task, found, chat)
    for text in dict.fromkeys(told):
        _tell(f"lm-evaluation-harness, {task.name}: {shortened(text, 300)}")
    return score


def evaluate_tasks(tasks: Sequence[Task], model: Model) -> list[TaskScore]:
    """The scores of a model on several tasks; of a task's first metric and the same by its name only one."""
    scores = [evaluate_task(task, model) for task in tasks]
    return list({score.label: score for score in scores}.values())


@cache
def _tell(text: str) -> None:
    """A warning, once a process: a calibration evaluates a task many times."""
    progress.warn(text)


def _manager(folder: Path | None, *, defaults: bool) -> Any:
    """The library's index of tasks, of a folder and optionally its own."""
    stamp = () if folder is None else tuple((str(p), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*.yaml")))
    return _indexed(folder, defaults, stamp)


@cache
def _indexed(folder: Path | None, defaults: bool, stamp: object) -> Any:
    manager = import_module("lm_eval.tasks").TaskManager
    return manager(include_path=None if folder is None else str(folder), include_defaults=defaults)


def _has(manager: Any, name: Any) -> bool:
    """Whether a task, and of a group all that it names, is in an index."""
    entry = manager.task_index.get(name) if isinstance(name, str) else None
    if entry is None or entry.kind.name != "GROUP":
        return entry is not None
    members = (entry.cfg or {}).get("task")
    return all(_has(manager, member) for member in (members if isinstance(members, list) else [members]))


def _unknown(name: str, known: Sequence[str], folder: Path | None) -> str:
    """The message for an unknown task, with similar names."""
    similar = get_close_matches(name, known, n=5)
    hint = f"similar: {listed(similar)}" if similar else f"{len(known)} are known to lm-evaluation-harness"
    more = "" if folder is not None else "; for tasks of your own give their folder, harness.include_path"
    return f"unknown task {brief(name, 80)}; {hint}{more}{_unreadable(folder)}"


def _unreadable(folder: Path | None) -> str:
    """The first YAML file of a folder that the library cannot read, for a message; empty if there is none."""
    load = import_module("lm_eval.tasks._yaml_loader").load_yaml
    for path in () if folder is None else sorted(folder.rglob("*.yaml")):
        try:
            load(path, resolve_func=False)
        except Exception as error:  # of the YAML library, or what the file's includes raise
            return f"; {path.name} cannot be read: {_said(error)}"
    return ""


def _task(label: str, manager: Any, settings: HarnessSettings, folder: Path | None, where: str) -> Task:
    name, _, metric = label.partition(":")
    try:
        with _quiet():
            loaded = manager.load([name])
    except Exception as error:  # of the task's own code, of reading its questions, or of the hub
        raise ConfigError(
            f"{where}: the task {name} cannot be read: {_said(error)}; correct its YAML file, or leave it out"
        ) from error
    members = loaded["tasks"]
    if name not in members and not (name in loaded["groups"] and loaded["groups"][name].has_aggregation):
        raise ConfigError(f"{where}: {name} is several tasks without a common score; name them: {listed(members, 300)}")
    for of_task in members.values():
        _set_shots(of_task, settings, where)
    if metric and name in members:
        _require_metric(name, members[name], metric, where)
    sizes = [len(of_task.eval_docs) for of_task in members.values()]
    questions = sum(size if settings.limit is None else min(size, settings.limit) for size in sizes)
    return Task(name, metric, _definition(loaded, manager, folder), settings, questions, loaded)


def _set_shots(of_task: Any, settings: HarnessSettings, where: str) -> None:
    own = of_task.get_config("num_fewshot")
    if settings.num_fewshot is None:
        of_task.set_config(key="num_fewshot", value=own or 0)
    elif own == 0 and settings.num_fewshot:
        raise ConfigError(
            f"{where}: the task {of_task.task_name} is defined without solved questions (num_fewshot: 0), which "
            "lm-evaluation-harness keeps; leave harness.num_fewshot out"
        )
    else:
        of_task.set_config(key="num_fewshot", value=settings.num_fewshot)


def _require_metric(name: str, of_task: Any, metric: str, where: str) -> None:
    """Refuse an unknown metric, where the metrics are known before the evaluation."""
    known = list(of_task.aggregation())
    free = of_task.get_config("process_results") is not None or of_task.OUTPUT_TYPE == "generate_until"
    if metric.partition(",")[0] not in known and not free:
        raise ConfigError(f"{where}: {unknown_name(f'metric of the task {name!r}', metric, known)}")


def _definition(loaded: Mapping[str, Any], manager: Any, folder: Path | None) -> str:
    """SHA-256 of everything that a task's score depends on besides the model and the settings."""
    entries = [manager.task_index.get(name) for name in (*loaded["tasks"], *loaded["groups"])]
    files = [Path(entry.yaml_path).resolve() for entry in entries if entry is not None and entry.yaml_path]
    own = folder is not None and any(path.is_relative_to(folder.resolve()) for path in files)
    code = sorted(folder.rglob("*.py")) if folder is not None and own else []
    return digest(
        {
            "lm_eval": version("lm_eval"),
            "groups": {name: _content(group.to_dict()) for name, group in loaded["groups"].items()},
            "tasks": {name: _content_of(of_task) for name, of_task in loaded["tasks"].items()},
            "code": {path.relative_to(folder).as_posix(): file_digest(path) for path in code if folder is not None},
        }
    )


_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs")
"""Keys that say where questions are; the questions themselves are hashed."""


def _content_of(of_task: Any) -> dict[str, str]:
    config = {k: v for k, v in of_task.config.to_dict(keep_callable=True).items() if k not in _PLACES}
    config["metadata"] = {k: v for k, v in (config.get("metadata") or {}).items() if k != "config_source"}
    shots = of_task.fewshot_docs() if of_task.get_config("num_fewshot") else ()
    return {"config": _content(config), "questions": _rows(of_task.eval_docs), "shots": _rows(shots or ())}


def _rows(docs: Any) -> str:
    found = hashlib.sha256()
    for row in docs:
        found.update(_content(row).encode())
        found.update(b"\n")
    return found.hexdigest()


def _content(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> str:
    """A value that JSON has no form for: functions by name, since their code is hashed by file or version."""
    if isinstance(value, partial):
        return f"{_plain(value.func)} {value.args} {sorted(value.keywords.items())}"
    return str(getattr(value, "__qualname__", None) or value)


def _wrapped(model: Model, chat: bool, batch_size: int) -> Any:
    """The model as the library takes it; its tokenizer is copied, since the library may add a token to it."""
    wrapper = import_module("lm_eval.models.huggingface").HFLM
    tokenizer = copy.deepcopy(model.tokenizer)
    wrapped = wrapper(
        pretrained=model.model, tokenizer=tokenizer, batch_size=batch_size, max_length=model.context_length
    )
    if chat:
        wrapped.apply_chat_template = _Chat(Renderer(model.template, model.tokenizer, frozenset(model.end_ids)))
    return wrapped


class _Chat:
    """Renders conversations by the model's chat template as its other prompts are, see `Renderer`."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def __call__(self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        turns = [(turn["role"], turn["content"]) for turn in history]
        try:
            return self.render(turns, begins=add_generation_prompt)
        except ModelError:
            if self.renderer.template.system or turns[0][0] != "system":
                raise
            logging.getLogger("lm_eval").warning(
                "the chat template takes no system message; the description of the task is left out"
            )
            return self.render(turns[1:], begins=add_generation_prompt)

    def render(self, turns: Sequence[tuple[str, str]], *, begins: bool) -> str:
        """The conversation up to where the model begins its turn, or continues the last one."""
        if begins:
            return self.renderer.apply(turns, add_generation_prompt=True)
        mark = "uwcanswer"
        while any(mark in text for _, text in turns):
            mark += "x"
        text = self.renderer.apply([*turns[:-1], (turns[-1][0], turns[-1][1] + mark)])
        return text[: text.rfind(mark)]


def _read(task: Task, found: Mapping[str, Any], chat: bool) -> TaskScore:
    row = found["results"][task.name]
    scores = {n: float(v) for n, v in row.items() if "," in n and "_stderr" not in n and isinstance(v, int | float)}
    key = next((n for n in scores if not task.metric or task.metric in (n, n.split(",")[0])), None)
    if key is None:
        valid = list(dict.fromkeys(n.removesuffix(",none") for n in scores))
        raise ConfigError(unknown_name(f"metric of the task {task.name!r}", task.metric or "any", valid))
    name, _, named = key.partition(",")
    directions = found.get("higher_is_better", {}).get(task.name, {})
    metric, value = key.removesuffix(",none"), scores[key]
    items = {
        member: [
            (f"{member}/{s['doc_id']}", s[name]) for s in found["samples"][member] if s["filter"] == named and name in s
        ]
        for member in task.loaded["tasks"]
    }
    average, inputs = _inputs(task, metric, name, items, value)
    return TaskScore(
        task=task.name,
        metric=metric,
        value=value,
        higher=bool(directions.get(key, directions.get(name, True))),
        questions=sum(map(len, items.values())),
        chat=chat,
        library=version("lm_eval"),
        average=average,
        inputs=inputs,
        se=None if inputs or task.name not in items else _library_error(task, name, [v for _, v in items[task.name]]),
    )


Items = Mapping[str, Sequence[tuple[str, Any]]]
"""Task -> (question, the metric's value for it)."""


def _inputs(task: Task, metric: str, name: str, items: Items, value: float) -> tuple[str, tuple[TaskInput, ...]]:
    """How a score is computed from values by question, as the task declares it; nothing if it is not so computed, or
    if that does not give the library's number."""
    aggregations = [task.loaded["tasks"][member].aggregation().get(name) for member in items]
    declared = {"mean" if function is None else getattr(function, "__name__", "") for function in aggregations}
    if len(declared) > 1 or (len(items) > 1 and declared != {"mean"}):
        return "", ()
    (how,) = declared
    rows = [pair for of_member in items.values() for pair in of_member]
    width = 2 if how in COMBINATIONS else 1
    shapes = {len(v) if isinstance(v, tuple) else 1 if isinstance(v, int | float | np.number) else 0 for _, v in rows}
    if shapes != {width}:
        return "", ()

    def part(of: str, pairs: Sequence[tuple[str, Any]], values: Floats, suffix: str = "") -> TaskInput:
        ids = tuple(identity for identity, _ in pairs)
        return TaskInput(name=of, metric=f"{PREFIX}{metric}{suffix}", ids=ids, values=tuple(map(float, values)))

    table = np.array([v for _, v in rows], dtype=np.float64).reshape(len(rows), width)
    average, inputs = how, tuple[TaskInput, ...]()
    if how == "mean" and len(items) > 1 and not _by_size(task, name):
        average = "mean_of_tasks"
        inputs = tuple(part(of, pairs, np.array([v for _, v in pairs])) for of, pairs in items.items())
    elif how == "mean":
        average, inputs = "arithmetic", (part(task.name, rows, table[:, 0]),)
    elif how == "perplexity":
        with np.errstate(over="ignore"):
            average, inputs = "geometric", (part(task.name, rows, np.exp(-table[:, 0])),)
    elif how in COMBINATIONS:
        columns = enumerate((" log-likelihood", " length"))
        inputs = tuple(part(task.name, rows, table[:, k], suffix) for k, suffix in columns)
    same = bool(inputs) and math.isclose(_value(average, inputs), value, rel_tol=1e-9, abs_tol=1e-12)
    return (average, inputs) if same else ("", ())


def _by_size(task: Task, name: str) -> bool:
    """Whether the tasks of a group count by their numbers of questions."""
    declared = task.loaded["groups"][task.name].aggregate_metric_list
    return bool(next((of.weight_by_size for of in declared if of.metric == name), True))


def _value(average: str, inputs: Sequence[TaskInput]) -> float:
    means = np.array([np.log(i.array).mean() if average == "geometric" else i.array.mean() for i in inputs])
    if average in ("arithmetic", "geometric"):
        return float(np.exp(means[0]) if average == "geometric" else means[0])
    return float(COMBINATIONS[average](means))


def _library_error(task: Task, name: str, values: Sequence[Any]) -> float | None:
    """The library's standard error of a single task's score; None if it has none."""
    function = task.loaded["tasks"][task.name].aggregation().get(name)
    draws = RESAMPLES if name not in _SLOW else min(RESAMPLES, 100)
    error_of = import_module("lm_eval.api.metrics").stderr_for_metric(function, draws)
    if error_of is None or len(values) < 2:
        return None
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        found = float(error_of(values))
    finally:
        os.environ.pop("DISABLE_MULTIPROC")
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before
    return found if math.isfinite(found) else None


def _said(error: BaseException) -> str:
    """An error of the library in one line."""
    text = " ".join((str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)).split())
    return shortened(text or type(error).__name__, 250)


class _Collected(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        text = " ".join(record.getMessage().split())
        if not _NOISE.search(text):
            self.into.append(text)


@contextmanager
def _quiet(told: list[str] | None = None) -> Iterator[None]:
    """Keep the library's prints, bars and log from standard output and error; warnings are added to `told`."""
    logger = logging.getLogger("lm_eval")
    handler, propagate = _Collected([] if told is None else told), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(redirect_stdout(StringIO()))
            stack.enter_context(redirect_stderr(StringIO()))
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed the global random states, which some tasks read, and restore them afterwards."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
