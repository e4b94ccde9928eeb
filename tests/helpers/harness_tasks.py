"""Tasks of lm-evaluation-harness in files: their YAML, and their questions as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from uwc.data.example import Example

COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
PROMPT = 'doc_to_text: "Question: {{question}}\\nAnswer:"\n'
CHOICE = (
    PROMPT
    + """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
)
ANSWER = (
    PROMPT
    + """output_type: generate_until
doc_to_target: " {{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 30}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
)
TEXT = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""
GROUP = """group: both
task: [first_choice, second_choice]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: false}
"""


def write_tasks(folder: Path, examples: Sequence[Example]) -> Path:
    """A folder with the tasks local_choice, local_answer and local_text of all questions, first_choice of the first
    three, second_choice of the others, and the group of the two, whose tasks have equal weights."""
    folder.mkdir(exist_ok=True)
    parts = {"all": examples, "first": examples[:3], "second": examples[3:]}
    for part, chosen in parts.items():
        (folder / f"{part}.json").write_text(json.dumps([_row(i, e) for i, e in enumerate(chosen)]), encoding="utf-8")
    kinds = {
        "local_choice": ("all", CHOICE),
        "local_answer": ("all", ANSWER),
        "local_text": ("all", TEXT),
        "first_choice": ("first", CHOICE),
        "second_choice": ("second", CHOICE),
    }
    for name, (part, rest) in kinds.items():
        text = f"task: {name}\n" + COMMON.format(data=folder / f"{part}.json") + rest
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "both.yaml").write_text(GROUP, encoding="utf-8")
    return folder


def _row(place: int, example: Example) -> dict[str, object]:
    right = place % (len(example.perturbed_answers) + 1)
    choices = list(example.perturbed_answers)
    choices.insert(right, example.answer)
    return {"question": example.question, "answer": example.answer, "choices": choices, "right": right}
