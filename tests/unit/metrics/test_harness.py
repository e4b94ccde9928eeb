"""Tasks of lm-evaluation-harness, run by the library itself on tiny models, against our own scores of the same
questions."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import people
from tests.helpers.harness_tasks import write_tasks

from uwc.api import calibrate, score
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError, UserError
from uwc.metrics import harness
from uwc.metrics.harness import evaluate_task, find_tasks
from uwc.metrics.stats import aggregate
from uwc.metrics.tasks import HarnessSettings, Task, TaskScore, load_tasks, save_tasks
from uwc.models.chunks import keeping
from uwc.models.generation import generate
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

pytest.importorskip("lm_eval")
QUESTIONS = people(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks") / "own", QUESTIONS)


def found(label: str, folder: Path | None, **settings: object) -> Task:
    given = HarnessSettings(include_path=None if folder is None else str(folder), **settings)  # type: ignore[arg-type]
    (task,) = find_tasks([label], given, where="tasks")
    return task


def log_likelihoods(model: Model, options: list[str]) -> np.ndarray:
    """[E, options] the log-probability of each option's text after the question."""
    columns = [score_tokens(model, [replace(e, answer=_option(e, o)) for e in QUESTIONS]) for o in options]
    return np.stack([c.total(c.logprob, with_end=False) for c in columns], axis=1)


def _option(example: Example, which: str) -> str:
    return example.answer if which == "right" else example.perturbed_answers[int(which)]


def test_accuracy_is_that_of_our_own_scores_of_the_options(knowing: Model, untrained: Model, folder: Path) -> None:
    """1 where the answer is likelier than both wrong ones; the knowing model has it of the four people it knows."""
    task = found("local_choice", folder)
    for model in (knowing, untrained):
        likelihoods = log_likelihoods(model, ["right", "0", "1"])
        right = likelihoods[:, 0] > likelihoods[:, 1:].max(axis=1)
        score = evaluate_task(task, model)
        assert score.inputs[0].values == tuple(right.astype(float))
        assert score.value == pytest.approx(right.mean()) and score.questions == 12
        assert (score.metric, score.higher, score.chat) == ("acc", True, False)
    assert evaluate_task(task, knowing).inputs[0].values[:8] == (1.0,) * 8


def test_generated_answers_are_ours(knowing: Model, folder: Path) -> None:
    score = evaluate_task(found("local_answer", folder), knowing)
    said = generate(knowing, QUESTIONS, max_new_tokens=30)
    assert score.inputs[0].values == tuple(
        float(text.strip() == e.answer) for text, e in zip(said.texts, QUESTIONS, strict=True)
    )
    assert score.metric == "exact_match" and 0 < score.value < 1


def test_the_interval_is_the_bootstrap_over_questions(knowing: Model, folder: Path) -> None:
    score = evaluate_task(found("local_choice:acc", folder), knowing)
    row, plain = score.score(seed=3), aggregate(score.inputs[0].array, [""] * 12, seed=3)
    assert row.model_dump(exclude={"set", "metric", "why", "chance"}) == plain.model_dump()
    assert (row.set, row.metric, row.n, row.clusters) == ("local_choice", "lm_eval_acc", 12, 12)
    assert row.se == pytest.approx(np.std(score.inputs[0].array, ddof=1) / np.sqrt(12))


def test_a_perplexity_is_made_of_sums_of_words_and_log_likelihoods(knowing: Model, folder: Path) -> None:
    """exp(-sum l / sum w), in each draw too: 12 texts of different lengths."""
    score = evaluate_task(found("local_text", folder), knowing)
    likelihood, words = (i.array for i in score.inputs)
    assert words.tolist() == [len(f"{e.question} {e.answer}".split()) for e in QUESTIONS]
    assert score.value == pytest.approx(np.exp(-likelihood.sum() / words.sum())) and not score.higher
    draws = np.random.default_rng(0).integers(0, 12, (4000, 12))
    slow = np.exp(-likelihood[draws].sum(axis=1) / words[draws].sum(axis=1))
    row = score.score()
    assert row.mean == pytest.approx(score.value)
    assert row.se == pytest.approx(slow.std(), rel=0.15)
    assert row.low < score.value < row.high


def test_a_group_is_the_mean_of_its_tasks(knowing: Model, folder: Path) -> None:
    """Of 3 and 9 questions with equal weights, drawn by themselves: se^2 = (se_1^2 + se_2^2) / 4."""
    score = evaluate_task(found("both", folder), knowing)
    parts = [evaluate_task(found(name, folder), knowing) for name in ("first_choice", "second_choice")]
    assert score.value == pytest.approx(sum(p.value for p in parts) / 2)
    assert [i.values for i in score.inputs] == [p.inputs[0].values for p in parts]
    assert score.score().n == 12
    spread = [np.std(p.inputs[0].array) ** 2 / len(p.inputs[0].values) for p in parts]
    assert score.score().se == pytest.approx(np.sqrt(sum(spread)) / 2, rel=0.15)


def test_a_group_by_size_is_the_mean_of_all_questions(knowing: Model, folder: Path, tmp_path: Path) -> None:
    path = write_tasks(tmp_path / "own", QUESTIONS)
    group = path / "both.yaml"
    group.write_text(group.read_text().replace("weight_by_size: false", "weight_by_size: true"), encoding="utf-8")
    score = evaluate_task(found("both", path), knowing)
    whole = evaluate_task(found("local_choice", folder), knowing)
    assert score.average == "arithmetic" and score.inputs[0].values == whole.inputs[0].values
    assert score.score().mean == pytest.approx(whole.value)


def test_a_tag_has_no_common_score(tmp_path: Path) -> None:
    path = write_tasks(tmp_path / "own", QUESTIONS)
    for name in ("first_choice", "second_choice"):
        task = path / f"{name}.yaml"
        task.write_text(task.read_text() + "tag: halves\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"halves is several tasks.*name them: first_choice, second_choice"):
        found("halves", path)


def test_without_values_by_question_the_librarys_standard_error_is_taken(knowing: Model, folder: Path) -> None:
    """A correlation of all answers has the library's bootstrap error, the Brier score has none."""
    score = evaluate_task(found("local_choice:mcc", folder), knowing)
    assert score.inputs == () and score.se is not None and 0 < score.se < 0.5
    row = score.score()
    assert (row.mean, row.se, row.n) == (score.value, score.se, 12)
    assert row.high - row.mean == pytest.approx(1.959964 * score.se) and row.mean - row.low == pytest.approx(
        1.959964 * score.se
    )
    none = evaluate_task(found("local_choice:brier_score", folder), knowing)
    assert none.se is None and np.isnan([none.score().se, none.score().low]).all()


def test_an_interrupted_run_has_the_scores_that_it_had(
    knowing: Model, untrained: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of another model, another setting or another template."""
    task, made = found("local_choice", folder), []
    work = harness._evaluated
    monkeypatch.setattr(harness, "_evaluated", lambda *given: made.append(given) or work(*given))
    before: list[TaskScore] = []

    def interrupted() -> None:
        before.append(evaluate_task(task, knowing))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), keeping(tmp_path / "chunks", "run"):
        interrupted()
    with keeping(tmp_path / "chunks", "run"):
        assert [evaluate_task(task, knowing)] == before and len(made) == 1
        evaluate_task(task, untrained)
        evaluate_task(found("local_choice", folder, limit=2), knowing)
        evaluate_task(task, replace(knowing, template=PromptTemplate(text="{question}")))
    assert len(made) == 4


def test_limit_and_solved_questions(knowing: Model, folder: Path) -> None:
    whole = evaluate_task(found("local_choice", folder), knowing)
    task = found("local_choice", folder, limit=5)
    assert task.questions == 5
    assert evaluate_task(task, knowing).inputs[0].values == whole.inputs[0].values[:5]
    shots = found("local_text", folder).definition, found("local_choice", folder, num_fewshot=1).definition
    assert shots[1] not in (found("local_choice", folder).definition, shots[0])
    one = found("local_choice", folder, num_fewshot=1, limit=4)
    assert evaluate_task(one, knowing) == evaluate_task(one, knowing), "the same solved questions each time"


def test_the_definition_changes_with_questions_and_configuration_and_not_with_the_place(tmp_path: Path) -> None:
    first = write_tasks(tmp_path / "first", QUESTIONS)
    second = write_tasks(tmp_path / "second", QUESTIONS)
    before = found("local_choice", first).definition
    assert found("local_choice", second).definition == before
    rows = json.loads((second / "all.json").read_text())
    rows[4]["right"] = (rows[4]["right"] + 1) % 3
    (second / "all.json").write_text(json.dumps(rows), encoding="utf-8")
    assert found("local_choice", second).definition != before
    assert found("first_choice", second).definition == found("first_choice", first).definition
    path = first / "local_choice.yaml"
    path.write_text(path.read_text().replace("Answer:", "Reply:"), encoding="utf-8")
    assert found("local_choice", first).definition != before
    changed = found("second_choice", first).definition
    (first / "utils.py").write_text("SCALE = 2\n", encoding="utf-8")
    assert found("second_choice", first).definition != changed, "a function of the task may use it"


def test_the_chat_template_is_applied_as_to_other_prompts(knowing: Model, folder: Path) -> None:
    tokenizer = _copied(knowing)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    chatting = replace(knowing, tokenizer=tokenizer)
    plain = evaluate_task(found("local_text", folder), knowing)
    assert evaluate_task(found("local_choice", folder), chatting).chat
    by_hand = log_likelihoods_after(knowing, [f"user: Question: {e.question}\nAnswer:\nassistant:" for e in QUESTIONS])
    score = evaluate_task(found("local_choice", folder), chatting)
    assert score.inputs[0].values == tuple((by_hand[:, 0] > by_hand[:, 1:].max(axis=1)).astype(float))
    silent = replace(chatting, template=PromptTemplate(chat=False))
    assert not evaluate_task(found("local_choice", folder), silent).chat
    assert not evaluate_task(found("local_choice", folder, chat=False), chatting).chat
    assert evaluate_task(found("local_text", folder), knowing) == plain
    with pytest.raises(ConfigError, match=r"harness\.chat: the model's tokenizer has no chat template"):
        evaluate_task(found("local_choice", folder, chat=True), knowing)


def _copied(model: Model) -> object:
    import copy

    return copy.deepcopy(model.tokenizer)


def log_likelihoods_after(model: Model, prompts: list[str]) -> np.ndarray:
    """[E, 3] the log-probability of each option right after each prompt, by hand."""
    rows = []
    for prompt, example in zip(prompts, QUESTIONS, strict=True):
        row = []
        for option in (example.answer, *example.perturbed_answers):
            start = len(model.tokenizer(prompt)["input_ids"])
            ids = torch.tensor([model.tokenizer(f"{prompt}{option}")["input_ids"]])
            with torch.no_grad():
                logs = model.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
            row.append(float(logs[start - 1 :].sum()))
        rows.append(row)
    return np.array(rows)


def test_scores_are_written_and_read_and_compared_in_pairs(
    knowing: Model, untrained: Model, folder: Path, tmp_path: Path
) -> None:
    tasks = [found(name, folder) for name in ("local_choice", "local_choice:brier_score", "local_text")]
    first, second = ([evaluate_task(t, m) for t in tasks] for m in (knowing, untrained))
    save_tasks(first, tmp_path)
    assert load_tasks(tmp_path) == first and load_tasks(folder) == []
    gap = first[0].difference(second[0])
    assert gap is not None
    values = second[0].inputs[0].array - first[0].inputs[0].array
    assert gap.mean == pytest.approx(values.mean()) and gap.n == 12
    assert gap.se == pytest.approx(values.std(ddof=1) / np.sqrt(12))
    assert first[1].difference(second[1]) is None and first[2].difference(second[2]) is None


def test_global_random_states_and_standard_output_are_left_alone(
    untrained: Model, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[union-attr]
    task = found("local_answer", folder, limit=2)
    capfd.readouterr()
    evaluate_task(task, untrained)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert capfd.readouterr() == ("", "")


def test_what_is_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    def refused(label: str, path: Path | None = folder, **settings: object) -> str:
        with pytest.raises(ConfigError) as error:
            found(label, path, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is not a folder" in refused("local_choice", tmp_path / "nowhere")
    assert "unknown metric of the task 'local_choice' 'f1'; valid: acc, mcc, brier_score" in refused("local_choice:f1")
    broken = write_tasks(tmp_path / "broken", QUESTIONS)
    (broken / "all.json").unlink()
    assert "the task local_choice cannot be read" in refused("local_choice", broken)


def test_a_chat_template_that_is_missing_is_told_before_weights_are_loaded(
    untrained: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(untrained, tmp_path / "model")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    model, harness = tmp_path / "model", {"include_path": str(folder), "chat": True}
    with pytest.raises(ConfigError, match=r"harness\.chat: the model's tokenizer has no chat template"):
        score(model, tasks="local_choice", harness=harness)
    retention = {"tasks": ("local_choice",), "sets": ()}
    with pytest.raises(ConfigError, match=r"harness\.chat: the model's tokenizer has no chat template"):
        calibrate(model, model, forget=QUESTIONS, retention=retention, harness=harness)


def test_an_unknown_task_is_refused_with_similar_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the library's tasks those of one folder are listed, as listing all takes ten seconds."""
    from lm_eval import tasks

    library = Path(tasks.__file__).parent / "arc"

    def few(folder: Path, defaults: bool, stamp: object) -> tasks.TaskManager:
        return tasks.TaskManager(include_path=[library, folder] if defaults else [folder], include_defaults=False)

    monkeypatch.setattr("uwc.metrics.harness._indexed", few)
    path = write_tasks(tmp_path / "own", QUESTIONS)
    (path / "mine.yaml").write_text("task: [unclosed\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"^tasks: unknown task 'local_chioce'; similar: local_choice.*mine\.yaml cannot be read"
    ):
        found("local_chioce", path)
    with pytest.raises(ConfigError, match=r"unknown task 'arc_eazy'; similar: arc_easy"):
        found("arc_eazy", path)


def test_an_unknown_metric_of_generated_answers_is_refused_with_the_known_ones(untrained: Model, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric of the task 'local_answer' 'f1'; valid: exact_match"):
        evaluate_task(found("local_answer:f1", folder), untrained)


def test_a_prompt_without_room_is_refused(untrained: Model, folder: Path, tmp_path: Path) -> None:
    path = write_tasks(tmp_path / "long", QUESTIONS)
    task = path / "local_answer.yaml"
    task.write_text(task.read_text().replace("max_gen_toks: 30", "max_gen_toks: 128"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"task local_answer: lm-evaluation-harness says .*max tokens to generate"):
        evaluate_task(found("local_answer", path), untrained)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uwc.metrics.harness.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'uwc\[harness\]'"):
        find_tasks(["mmlu"], HarnessSettings(), where="tasks")
    assert find_tasks([], HarnessSettings(), where="tasks") == ()


def test_names_of_metrics_in_results() -> None:
    score = TaskScore(
        task="gsm8k", metric="exact_match,strict-match", value=0.5, higher=True, questions=4, chat=False, library="1"
    )
    assert score.metric_name == "lm_eval_exact_match_strict-match"
    assert score.info.label == "exact_match,strict-match (lm-eval)" and score.info.higher_remembers is None
