"""`uwc score` and `uwc check` of a server: the numbers of the same model's weights, and nothing is asked twice."""

import json
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.openai_server import MODEL, Fault, Served, serving
from tests.pipeline.conftest import Run, Started, scores_of, validate_result

from uwc.api import score
from uwc.attacks.data import Attacker
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models.endpoint import Endpoint
from uwc.models.generation import continue_greedily
from uwc.models.model import Model
from uwc.workflows.checking import check

KEY = "sk-of-nobody-else-5150"
FILES = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
OWNED = ("--attacker-data", "owned.jsonl")


def write(path: Path, examples: Sequence[Example]) -> None:
    rows = [
        {"id": e.id, "question": e.question, "answer": e.answer, "subject": e.subject, "secret": [e.answer.split()[-1]]}
        for e in examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "forget.jsonl", people(3))
    write(tmp_path / "retain.jsonl", people()[6:10])
    write(tmp_path / "owned.jsonl", people()[10:])
    return tmp_path


@pytest.fixture
def reciting() -> Iterator[Served]:
    """A server that knows all answers."""
    known = {e.question: e.answer for e in people()}

    def answer(body: Mapping[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        return next((says for question, says in known.items() if question in asked), "I do not know")

    with serving(answer) as server:
        yield server


def asked(server: Served) -> tuple[str, ...]:
    return ("--endpoint", server.url, "--model", MODEL)


def test_a_server_and_its_weights_have_the_same_metrics_of_texts(knowing: Model, files: Path, uwc: Run) -> None:
    def answer(body: Mapping[str, Any]) -> str:
        ids = knowing.tokenizer(body["prompt"])["input_ids"]
        ((tokens, _),) = continue_greedily(knowing, [ids], max_new_tokens=body["max_tokens"])
        return str(knowing.tokenizer.decode(tokens, skip_special_tokens=True))

    metrics = ("rouge_l", "secret_said")
    options = [word for metric in metrics for word in ("--metric", metric)]
    with serving(answer, chat=False) as server:
        done = uwc(
            "score",
            *asked(server),
            *FILES,
            *options,
            "--set",
            "score.max_new_tokens=9",
            "-o",
            "served",
            "--set",
            "endpoint.concurrency=2",
        )
    assert done.returncode == 0, done.stderr
    sets = {"forget": files / "forget.jsonl", "retain": files / "retain.jsonl"}
    weights = score(knowing, sets, metrics=metrics, max_new_tokens=9)
    validate_result(files / "served" / "score.json")
    served = json.loads((files / "served" / "score.json").read_text())
    assert served["kind"] == "endpoint" and server.url in served["model"]
    ours = scores_of(json.loads(weights.to_json())["scores"])
    assert scores_of(served["scores"]) == ours
    assert 0 < ours["forget", "rouge_l"]["mean"] < 1


def test_what_was_asked_can_be_measured_again_without_the_server(reciting: Served, files: Path, uwc: Run) -> None:
    attacks = ("--attack", "jailbreak", "--attack", "few_shot")
    settings = ("--set", "attack.settings.jailbreak.kinds=[fiction]", "--set", "attack.settings.few_shot.shots=2")
    done = uwc("score", *asked(reciting), *FILES, *attacks, *settings, "-o", "served", OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    under = [f"--under={name}=served/under-{name}.jsonl" for name in ("jailbreak", "few_shot")]
    again = uwc("score", "--outputs", "served/outputs.jsonl", *under, "-o", "texts")
    assert again.returncode == 0, again.stderr
    served, texts = (json.loads((files / name / "score.json").read_text()) for name in ("served", "texts"))
    assert served["scores"] == texts["scores"] and served["secrets"]
    outcomes = [found["attacks"]["models"][0]["outcomes"] for found in (served, texts)]
    assert outcomes[0] == outcomes[1]
    assert [len(o["variants"]) for o in outcomes[0] if o["metric"] == "rouge_l"] == [2, 1]
    assert set(reciting.keys) == {f"Bearer {KEY}"}
    assert KEY not in done.stdout + done.stderr
    assert all(KEY.encode() not in path.read_bytes() for path in (files / "served").iterdir())


def test_an_interrupted_run_resumes(reciting: Served, files: Path, uwc: Run) -> None:
    held, there = Event(), Event()

    def wait() -> None:
        if len(reciting.asked) == 4:
            there.set()
            held.wait(20)

    reciting.waits = wait
    options = ("score", *asked(reciting), *FILES, "--set", "endpoint.concurrency=1", "-o", "out")
    started = Started(*options, cwd=files)
    assert there.wait(60)
    done = started.end(signal.SIGINT)
    held.set()
    assert done.returncode == 130 and "asks only for the rest" in done.stderr
    assert len((files / "out" / "endpoint_answers.jsonl").read_text().splitlines()) == 3
    reciting.asked.clear()
    reciting.waits = lambda: None
    done = uwc(*options)
    assert done.returncode == 0, done.stderr
    assert len(reciting.asked) == len(people(5)) - 3
    assert "3 of 10 answers are those of an earlier run" in done.stderr


def test_attacks_that_talk_or_search_ask_a_server_and_resume(reciting: Served, files: Path, uwc: Run) -> None:
    rows = [json.loads(line) for line in (files / "forget.jsonl").read_text().splitlines()]
    (files / "forget.jsonl").write_text(
        "".join(json.dumps({**row, "aliases": f"Well, {row['question']}"}) + "\n" for row in rows)
    )
    write(files / "known.jsonl", people()[6:8])
    attacks = [word for name in ("self_correction", "evolution", "rewritten") for word in ("--attack", name)]
    settings = ("self_correction.turns=2", "evolution.generations=2", "evolution.population=3", "evolution.best=1")
    options = [word for setting in settings for word in ("--set", f"attack.settings.{setting}")]
    owned = ("--attacker-data", "known.jsonl", "--question-column", "aliases")
    command = ("score", *asked(reciting), "--forget", "forget.jsonl", *attacks, *options, *owned, "-o", "served")
    done = uwc(*command)
    assert done.returncode == 0, done.stderr
    assert any(len(body["messages"]) == 5 for _, body in reciting.asked)
    found = json.loads((files / "served" / "score.json").read_text())
    outcomes = {o["attack"]: o for o in found["attacks"]["models"][0]["outcomes"] if o["metric"] == "rouge_l"}
    assert [v["label"] for v in outcomes["self_correction"]["variants"]] == ["turn 1", "turn 2"]
    (variant,) = outcomes["evolution"]["variants"]
    assert "of the attacker's, 1.000 by the plain question, which no prompt surpasses" in variant["note"]
    assert outcomes["rewritten"]["after"]["mean"] == 1
    known = {e.question for e in people()[6:8]}
    assert sum(any(question in said for question in known) for said in reciting.said) > 4 * 17
    reciting.asked.clear()
    assert uwc(*command).returncode == 0 and not reciting.asked
    for words, told in (
        ((*asked(reciting), "--forget", "forget.jsonl", *owned), "for attacks on a server"),
        ((*asked(reciting), "--forget", "forget.jsonl", "--attack", "evolution"), "--attacker-data"),
        (("model", "--forget", "forget.jsonl", *owned), "see uwc attack"),
    ):
        done = uwc("score", *words)
        assert done.returncode == 1 and told in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not reciting.asked


def test_a_check_asks_under_the_attacks_of_the_policy(reciting: Served, files: Path, uwc: Run) -> None:
    (files / "policy.yaml").write_text(
        "name: own\n"
        "requirements:\n"
        "- {name: said, metric: rouge_l, at_most: 0.5}\n"
        "- name: drawn\n"
        "  metric: rouge_l\n"
        "  attack: {chain: sampling, settings: {sampling: {samples: 2}}}\n"
        "  at_most: 0.5\n"
        "- {name: doubted, metric: rouge_l, attack: self_correction, at_most: 0.5}\n"
        "- {name: relearned, metric: rouge_l, attack: relearn, at_most: 0.5, optional: true}\n"
        "- {name: weights, metric: extraction_strength, at_most: 0.5, optional: true}\n"
    )
    done = uwc("check", *asked(reciting), *FILES, "--policy", "policy.yaml", "--set", "endpoint.seed=null")
    assert done.returncode in (5, 6), done.stderr
    file = files / "checks" / MODEL / "check.json"
    validate_result(file)
    found = json.loads(file.read_text())
    outcomes = {r["name"]: (r["status"], r["score"]) for r in found["verdict"]["requirements"]}
    assert outcomes["said"][1] == outcomes["drawn"][1] == outcomes["doubted"][1] == 1
    assert max(len(body["messages"]) for _, body in reciting.asked) == 7
    assert {outcomes[name][0] for name in ("relearned", "weights")} == {"left out"}
    assert sum(body["temperature"] == 1 for _, body in reciting.asked) == 2 * len(people(3))
    assert all("seed" not in body for _, body in reciting.asked)
    assert found["model"]["kind"] == "endpoint" and "outputs.jsonl" in found["model"]["files"]
    reciting.asked.clear()
    assert uwc(*shlex.split(found["command"])[1:]).returncode == done.returncode
    assert not reciting.asked


def test_mistakes_are_one_line_before_anything_is_asked(reciting: Served, files: Path, uwc: Run) -> None:
    for options, told in (
        (("--endpoint", reciting.url), "--model NAME"),
        (("--model", MODEL), "--endpoint URL"),
        ((*asked(reciting), "--outputs", "forget.jsonl"), "exclude each other"),
        ((*asked(reciting), "--set", "endpoint.concurency=3"), "did you mean 'concurrency'"),
        ((*asked(reciting), "--set", "endpoint.concurrency=0"), "greater than or equal to 1"),
        ((*asked(reciting), "--set", "endpoint.url=x"), "--endpoint URL --model NAME"),
        ((*asked(reciting), "--metric", "perplexity"), "needs the model's weights"),
        ((*asked(reciting), "--attack", "relearn"), "needs the model's weights"),
        (
            (*asked(reciting), "--attack", "evolution", "--set", "attack.settings.evolution.judge=self", *OWNED),
            "'evolution': judge: self reads the model's likelihoods",
        ),
        (
            (*asked(reciting), "--metric", "perplexity", "--set", "score.judges.encoder=no/such"),
            "needs the model's weights",
        ),
        (("a-model", *asked(reciting)), "take the place of a model"),
    ):
        done = uwc("score", *options, *FILES)
        assert done.returncode == 1 and told in done.stderr, (options, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
    assert not reciting.asked
    reciting.faults.append(Fault(401, {"error": {"message": f"no such key: {KEY}"}}))
    done = uwc("score", *asked(reciting), *FILES, OPENAI_API_KEY=KEY)
    assert done.returncode == 1 and "OPENAI_API_KEY" in done.stderr and KEY not in done.stderr


def test_a_baseline_of_other_questions_is_refused_before_anything_is_asked(reciting: Served, files: Path) -> None:
    given: dict[str, Any] = {"forget": files / "forget.jsonl", "output_dir": files / "checks"}
    policy = {"name": "own", "requirements": [{"name": "said", "metric": "rouge_l", "at_most": 0.5}]}
    endpoint = Endpoint(reciting.url, MODEL)
    earlier = check(endpoint, **given, policy=policy)
    reciting.asked.clear()
    with pytest.raises(UserError, match="was made with other forget questions"):
        check(endpoint, **{**given, "forget": files / "owned.jsonl"}, policy=policy, baseline=earlier)
    assert not reciting.asked


def test_python_takes_an_endpoint_as_well(reciting: Served, files: Path) -> None:
    endpoint = Endpoint(reciting.url, MODEL)
    under = {"prompts": {"chain": "jailbreak", "settings": {"jailbreak": {"kinds": ["fiction"]}}}, "drawn": "sampling"}
    plain = [replace(e, paraphrased_question="") for e in people(3)]
    found = score(endpoint, plain, metrics="rouge_l", under=under)
    assert found.attacks is not None
    assert {info.name for info in found.attacks.attacks} == {"prompts", "drawn"}
    assert len(reciting.asked) == len(people(3)) * (1 + 2 + 16)


def test_a_check_with_the_attackers_own_data_has_no_command_that_repeats_it(reciting: Served, files: Path) -> None:
    evolution = {"chain": "evolution", "settings": {"evolution": {"population": 2, "generations": 1, "best": 1}}}
    given = {"forget": files / "forget.jsonl", "retain": files / "retain.jsonl", "output_dir": files / "checks"}
    policy = {"name": "own", "requirements": [{"name": "said", "metric": "rouge_l", "at_most": 0.5}]}
    endpoint, under = Endpoint(reciting.url, MODEL), {"evolution": evolution}
    found = check(endpoint, **given, policy=policy, under=under, attacker=Attacker(train=people()[6:8]))
    assert [info.name for info in found.attacks] == ["evolution"] and found.command == ""
