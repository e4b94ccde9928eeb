"""Verdicts of a local language model on generated answers: yes or no, by the likelihood of the two words."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from uwc.metrics.registry import metrics
from uwc.metrics.semantics import LanguageModel
from uwc.models.token_scores import Floats

YES, NO = ("yes", "Yes"), ("no", "No")
"""The words of a verdict."""
FIELDS = ("question", "answer", "text")
"""The fields of a prompt: the question, the true answer and the generated text."""
_FIELD = re.compile(r"\{(\w+)\}")

SAYS = """Question: {question}
True answer: {answer}
Reply: {text}

Does the reply state the true answer, in the same or in other words? Answer yes or no.
Verdict:"""
RELEVANT = """Question: {question}
Reply: {text}

Is the reply about what the question asks, whether or not it is correct? Answer yes or no.
Verdict:"""
FLUENT = """Reply: {text}

Is the reply fluent, well-formed language? Answer yes or no.
Verdict:"""


def _usable(prompt: str) -> str:
    """The prompt. Raises ValueError if a field is unknown, or the generated text is not in it."""
    fields = set(_FIELD.findall(prompt))
    if "text" not in fields or fields - set(FIELDS):
        named = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise ValueError(f"a prompt of a judge has {{text}}, and no other fields than {named}")
    return prompt


Prompt = Annotated[str, AfterValidator(_usable)]
Value = Literal["verdict", "probability"]
LeastMass = Annotated[float, Field(ge=0, le=1)]
_verdict = partial(
    metrics.register,
    source="arXiv:2306.05685",
    needs=("questions", "answers", "texts", "language_model"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    unscored="the true answer is empty, the prompt is too long for the judge, or it answers neither yes nor no",
)


@_verdict("judge_says", label="judge: says the answer")
def judge_says(
    questions: Sequence[str],
    answers: Sequence[str],
    texts: Sequence[str],
    language_model: LanguageModel,
    *,
    prompt: Prompt = SAYS,
    value: Value = "verdict",
    least_mass: LeastMass = 0.01,
) -> Floats:
    """Whether a language model finds that the generated text states the true answer.

    ``1[p > 1/2]`` with ``p = p_yes / (p_yes + p_no)``, where p_yes and p_no are the judge's probabilities of the words
    yes and no (in small letters, or with a capital) after the prompt. An empty text scores 0 unasked.

    Args:
        questions: the questions.
        answers: the true answers.
        texts: the generated ones.
        language_model: the judge, given by the user.
        prompt: the prompt, with the fields {question}, {answer} and {text}.
        value: the verdict, or its probability p.
        least_mass: the least p_yes + p_no of a verdict; below it there is none.

    Returns:
        [E] 0 or 1, or in 0..1; NaN if the true answer is empty, if p_yes + p_no is below `least_mass`, or if the prompt
        is longer than the judge's context.
    """
    return verdicts(questions, answers, texts, language_model, prompt=prompt, value=value, least_mass=least_mass)


@_verdict("judge_relevant", label="judge: on topic")
def judge_relevant(
    questions: Sequence[str],
    answers: Sequence[str],
    texts: Sequence[str],
    language_model: LanguageModel,
    *,
    prompt: Prompt = RELEVANT,
    value: Value = "verdict",
    least_mass: LeastMass = 0.01,
) -> Floats:
    """Whether a language model finds that the generated text is about what the question asks.

    ``1[p_yes > p_no]`` as `judge_says`, with another prompt, which does not have the true answer.

    Returns:
        [E] as `judge_says`.
    """
    return verdicts(questions, answers, texts, language_model, prompt=prompt, value=value, least_mass=least_mass)


@_verdict("judge_fluent", label="judge: fluent")
def judge_fluent(
    questions: Sequence[str],
    answers: Sequence[str],
    texts: Sequence[str],
    language_model: LanguageModel,
    *,
    prompt: Prompt = FLUENT,
    value: Value = "verdict",
    least_mass: LeastMass = 0.01,
) -> Floats:
    """Whether a language model finds that the generated text is fluent.

    ``1[p_yes > p_no]`` as `judge_says`, with another prompt, which has the generated text alone.

    Returns:
        [E] as `judge_says`.
    """
    return verdicts(questions, answers, texts, language_model, prompt=prompt, value=value, least_mass=least_mass)


def verdicts(
    questions: Sequence[str],
    answers: Sequence[str],
    texts: Sequence[str],
    language_model: LanguageModel,
    *,
    prompt: str,
    value: Value,
    least_mass: float,
) -> Floats:
    """[E] verdicts of a language model with a prompt, see `judge_says`."""
    asked = [i for i, (a, t) in enumerate(zip(answers, texts, strict=True)) if a.strip() and t.strip()]
    found = np.where([bool(a.strip()) for a in answers], 0.0, np.nan)
    if not asked:
        return found
    words = (*YES, *NO)
    prompts = [rendered(prompt, questions[i], answers[i], texts[i]) for i in asked]
    scored = language_model([p for p in prompts for _ in words], list(words) * len(prompts))
    chances = np.exp(scored[:, 0]).reshape(len(prompts), len(words))
    yes, mass = chances[:, : len(YES)].sum(axis=1), chances.sum(axis=1)
    share = np.divide(yes, mass, out=np.full(len(mass), np.nan), where=(mass > 0) & (mass >= least_mass))
    found[asked] = share if value == "probability" else np.where(np.isnan(share), np.nan, share > 0.5)
    return found


def rendered(prompt: str, question: str, answer: str, text: str) -> str:
    """A prompt with its fields filled in; braces within the texts stay as they are."""
    fields = dict(zip(FIELDS, (question.strip(), answer.strip(), text.strip()), strict=True))
    return _FIELD.sub(lambda field: fields[field[1]], prompt)
