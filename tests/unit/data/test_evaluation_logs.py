"""Logs of other evaluation codes, in the layouts that they write, and against what is wrong with them."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from uwc.data.evaluation_logs import TOFU_FILES, read_log
from uwc.data.outputs import Outputs, SystemTexts, open_outputs, read_outputs
from uwc.errors import DataError


def written(folder: Path, content: Any, name: str = "x.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


def read(path: Path) -> SystemTexts:
    opened, _ = open_outputs({"outputs": Outputs(path)})
    return read_outputs(opened["outputs"])


def harness_sample(doc_id: int, said: Any, **fields: Any) -> dict[str, Any]:
    """A line of samples_TASK_DATE.jsonl, as lm-evaluation-harness 0.4 writes it."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Who is {doc_id}?", "answer": f"number {doc_id}", "subject": f"s{doc_id}"},
        "target": f"number {doc_id}",
        "arguments": {"gen_args_0": {"arg_0": f"Question: Who is {doc_id}?\nAnswer:", "arg_1": {"until": ["\n\n"]}}},
        "resps": [[said]],
        "filtered_resps": [str(said).strip()],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": "0" * 64,
        "prompt_hash": "0" * 64,
        "target_hash": "0" * 64,
        "exact_match": 0.0,
        **fields,
    }


def lines(folder: Path, rows: list[dict[str, Any]], name: str = "samples_authors_2026-01-01.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


def test_samples_of_the_harness_have_the_response_before_filters(tmp_path: Path) -> None:
    """A second filter repeats each sample; the prompt is that which was sent, the subject is in the document."""
    samples = [harness_sample(i, f" number {i}") for i in range(3)]
    again = [{**sample, "filter": "strict", "filtered_resps": ["[invalid]"]} for sample in samples]
    found = read(lines(tmp_path, [*samples, *again]))
    assert found.texts["forget"] == (" number 0", " number 1", " number 2")
    assert [e.question for e in found.examples["forget"]] == ["Who is 0?", "Who is 1?", "Who is 2?"]
    assert [e.answer for e in found.examples["forget"]] == ["number 0", "number 1", "number 2"]
    assert [e.subject for e in found.examples["forget"]] == ["s0", "s1", "s2"]
    assert found.prompts["forget"][0] == "Question: Who is 0?\nAnswer:"


def test_samples_without_one_text_are_refused_with_their_line(tmp_path: Path) -> None:
    likelihoods = harness_sample(0, None, resps=[[["-3.0", "False"]], [["-0.5", "True"]]], filtered_resps=[])
    with pytest.raises(DataError, match=r"line 1.*log-likelihood"):
        read(lines(tmp_path, [likelihoods]))
    several = harness_sample(0, None, resps=[["one", "two", "three"]])
    with pytest.raises(DataError, match=r"line 2.*3 responses"):
        read(lines(tmp_path, [harness_sample(1, "one"), several]))


def inspect_sample(number: int, **fields: Any) -> dict[str, Any]:
    """A sample of inspect_ai's logs of version 2."""
    message = {"id": "m1", "content": f"number {number}", "source": "generate", "role": "assistant", "model": "m"}
    return {
        "id": number,
        "epoch": 1,
        "input": f"Who is {number}?",
        "target": f"number {number}",
        "messages": [{"id": "m0", "content": f"Who is {number}?", "source": "input", "role": "user"}, message],
        "output": {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}], "usage": {}},
        "scores": {"match": {"value": "C", "answer": "x"}},
        "metadata": {"subject": f"s{number}"},
        "store": {},
        "events": [],
        "attachments": {},
        **fields,
    }


def inspect_log(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "authors", "model": "m"},
        "plan": {},
        "samples": samples,
    }


def archived(folder: Path, samples: list[dict[str, Any]], name: str = "log.eval") -> Path:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": {}}))
        for sample in samples:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps(inspect_log([])))
    return folder / name


def test_both_forms_of_inspect_logs_are_read_alike(tmp_path: Path) -> None:
    """Ten samples, of which the archive has "10" before "2" in its alphabet, are in the order of their numbers."""
    samples = [inspect_sample(i) for i in range(1, 12)]
    first, second = read(written(tmp_path, inspect_log(samples))), read(archived(tmp_path, samples))
    assert first.texts == second.texts == {"forget": tuple(f"number {i}" for i in range(1, 12))}
    assert first.examples == second.examples
    assert first.examples["forget"][0].id == "1" and first.examples["forget"][0].subject == "s1"


def test_inputs_of_turns_parts_and_attachments_are_resolved(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "attachment://abc"}]
    content = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "number 1"}]
    output = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    sample = inspect_sample(1, input=turns, output=output, attachments={"abc": "Who is 1?"})
    found = read(written(tmp_path, inspect_log([sample])))
    assert found.texts["forget"] == ("number 1",)
    assert found.examples["forget"][0].question == "Who is 1?"
    assert found.examples["forget"][0].history == (("system", "Be brief."),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"output": {"choices": []}, "error": {"message": "timeout"}}, "no output.*timeout"),
        ({"output": {"choices": [{"message": {"content": "a"}}] * 2}}, "2 outputs"),
        ({"output": None}, "no output"),
    ],
)
def test_samples_of_inspect_without_one_output_are_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read(written(tmp_path, inspect_log([inspect_sample(1, **fields)])))


def test_several_epochs_are_refused(tmp_path: Path) -> None:
    samples = [inspect_sample(1), inspect_sample(1, epoch=2)]
    with pytest.raises(DataError, match="keep one text of each question"):
        read(archived(tmp_path, samples))


def test_archives_that_are_no_logs_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "b.eval").write_bytes((tmp_path / "a.eval").read_bytes()[:30])
    for name in ("a.eval", "b.eval"):
        with pytest.raises(DataError, match=rf"{name[0]}\.eval: "):
            read_log(tmp_path / name)


def open_rouge(numbers: int) -> dict[str, Any]:
    values = {
        str(i): {
            "rouge1_recall": 1.0,
            "rougeL_f1": 1.0,
            "rougeL_recall": 0.5,
            "input": f"system\n\nYou are helpful.user\n\nWho is {i}?assistant\n\n",
            "ground_truth": f"number {i}",
            "generation": f"it is {i}",
        }
        for i in range(numbers)
    }
    return {"agg_value": 0.5, "value_by_index": values}


def test_texts_of_open_unlearning_are_read_by_set(tmp_path: Path) -> None:
    log = {
        "forget_Q_A_ROUGE": open_rouge(12),
        "retain_Q_A_ROUGE": open_rouge(2),
        "forget_Q_A_Prob": {
            "agg_value": 0.5,
            "value_by_index": {str(i): {"prob": 0.5, "avg_loss": 0.7} for i in range(12)},
        },
        "forget_quality": {"agg_value": None},
    }
    found = read(written(tmp_path, log, "TOFU_EVAL.json"))
    assert {name: len(texts) for name, texts in found.texts.items()} == {"forget": 12, "retain": 2}
    assert [e.id for e in found.examples["forget"]] == [str(i) for i in range(12)]
    assert found.texts["forget"][10] == "it is 10" and found.examples["forget"][10].answer == "number 10"
    assert found.logged["forget"].probability.tolist() == [0.5] * 12


def test_muse_logs_of_open_unlearning_have_knowledge_and_passages(tmp_path: Path) -> None:
    log = {"forget_knowmem_ROUGE": open_rouge(2), "forget_verbmem_ROUGE": open_rouge(3)}
    found = read(written(tmp_path, log, "MUSE_EVAL.json"))
    assert {name: len(texts) for name, texts in found.texts.items()} == {"forget": 2, "verbatim": 3}


@pytest.mark.parametrize("as_list", [True, False])
def test_texts_of_tofu_are_triples_by_index(as_list: bool, tmp_path: Path) -> None:
    texts = {str(i): [f"Question: Who is {i}?\n", f"it is {i}", f"number {i}"] for i in range(11)}
    of_set = {
        "avg_gt_loss": dict.fromkeys(texts, 0.7),
        "avg_paraphrased_loss": dict.fromkeys(texts, 0.7),
        "average_perturb_loss": {key: [1.0, 2.0] for key in texts},
        "rougeL_recall": dict.fromkeys(texts, 0.5),
        "generated_text": list(texts.values()) if as_list else texts,
    }
    found = read(written(tmp_path, {TOFU_FILES["forget"]: of_set}))
    assert found.texts["forget"][10] == "it is 10" and found.examples["forget"][10].id == "10"
    assert found.logged["forget"].rouge.tolist() == [0.5] * 11


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"something": 1}'])
def test_what_is_no_log_and_no_table_of_texts_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"^[^\n]*x\.json[^\n]*$"):
        read(tmp_path / "x.json")


@pytest.mark.parametrize(
    "log",
    [
        {TOFU_FILES["forget"]: None},
        {TOFU_FILES["forget"]: 5},
        {
            TOFU_FILES["forget"]: {
                "avg_gt_loss": [],
                "average_perturb_loss": [],
                "avg_paraphrased_loss": [],
                "rougeL_recall": [],
            }
        },
        {"forget_Q_A_Prob": None},
        {"forget_Q_A_Prob": {"value_by_index": [1]}},
        {"forget_Q_A_Prob": {"value_by_index": {"0": {"prob": 10**400}}}},
        {"forget_Q_A_Prob": {"value_by_index": {"0": {"prob": [0.5, 0.5]}}}},
        {"forget_Q_A_PERT_Prob": {"value_by_index": {"0": {"avg_loss": [1.0, [2.0]]}}}},
        {"forget_Q_A_ROUGE": {"value_by_index": {"0": {"generation": ["a", "b"], "rougeL_recall": 1.0}}}},
        {"eval": {}, "samples": 5},
        {"eval": {}, "samples": [5]},
        {"eval": {}, "samples": [{"output": {"choices": 5}}]},
    ],
)
def test_parts_of_other_types_are_refused(log: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(log), encoding="utf-8")
    with pytest.raises(DataError, match=r"x[.]json"):
        read(path)


def test_a_deep_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 50_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"x[.]json"):
        read(tmp_path / "x.json")
