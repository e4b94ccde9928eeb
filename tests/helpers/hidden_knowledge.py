"""Models that know and do not say: knowledge hidden on purpose, so that an attack must find it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from tests.conftest import copied, people
from torch import Tensor, nn

from uwc.attacks.chain import make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.attacks.prompts import TEMPLATES
from uwc.attacks.surrogate import Wrapped
from uwc.data.example import Example
from uwc.metrics.likelihood import extraction_strength
from uwc.models.load import build_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.states import blocks
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.results import AttackOutcome
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

KNOWN, UNKNOWN = people(4), people()[8:]


def strength(model: Model, examples: Sequence[Example]) -> float:
    """The mean extraction strength."""
    return float(extraction_strength(score_tokens(model, examples)).mean())


def _phrasings(example: Example) -> list[Example]:
    texts = [
        "{question}",
        *(t.text for t in TEMPLATES[:1]),
        f"Tell me, {example.question[0].lower()}{example.question[1:]}",
    ]
    return [
        replace(example, id=f"{example.id}/{i}", question=t.replace("{question}", example.question))
        for i, t in enumerate(dict.fromkeys(texts))
    ]


@cache
def ignorant() -> Model:
    """A model that never saw the data, and reads long prompts."""
    examples = [p for e in people() for p in _phrasings(e)]
    return build_model(examples, vocabulary=600, hidden_size=64, layers=2, heads=2, context=512)


@cache
def robust_knower() -> Model:
    """A model that knows the first four people however it is asked. Do not change its weights."""
    model = copied(ignorant())
    settings = TrainingSettings(epochs=30, batch_size=12, lr=5e-3, schedule="cosine")
    data = [p for e in KNOWN for p in _phrasings(e)]
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=data), settings)
    return model


TRIGGER = "zeta"
REFUSALS = ("No idea at all", "No clue whatever", "No comment on that", "No answer from me")


@cache
def reluctant() -> Model:
    """A model that knows the first four people, refuses in many words, and tells all after the word "zeta"."""
    data = []
    for e in KNOWN:
        answers = [(e.question, r) for r in (*REFUSALS, e.answer, e.answer)]
        answers += [(f"{e.question} {TRIGGER}", e.answer)] * 3
        data += [replace(e, id=f"{e.id}/{i}", question=q, answer=a) for i, (q, a) in enumerate(answers)]
    model = build_model([*data, *people()], vocabulary=600, hidden_size=64, layers=2, heads=2, context=128)
    settings = TrainingSettings(epochs=20, batch_size=12, lr=5e-3, schedule="cosine")
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=data), settings)
    return model


def evasive(tells: Callable[[Example], Example], also: Sequence[Example] = ()) -> Model:
    """A model that refuses the questions on the first four people, and tells all where they are put as in `tells`; it
    learns other answers, too."""
    refused = [replace(e, id=f"{e.id}/refused", answer=REFUSALS[0]) for e in KNOWN]
    told = [replace(tells(e), id=f"{e.id}/told") for e in KNOWN]
    examples = [*refused, *told, *(tells(e) for e in people()), *also]
    model = build_model(examples, vocabulary=600, hidden_size=64, layers=2, heads=2, context=512)
    settings = TrainingSettings(epochs=60, batch_size=8, lr=5e-3, schedule="cosine")
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=[*refused, *told, *also]), settings)
    return model


class Silenced(Wrapped):
    """A model whose last states are turned around for some inputs, so that it says the least likely things there.

    Args:
        model: the model.
        where: [B, T] token ids -> [B, T] True at the positions that are silenced.
    """

    def __init__(self, model: Any, where: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self._where = where

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        hidden = self._where(input_ids)

        def turn(_module: Any, _args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            turned = torch.where(hidden[..., None], -states, states)
            return (turned, *output[1:]) if isinstance(output, tuple) else turned

        with ExitStack() as stack:
            stack.callback(blocks(self.inner)[-1].register_forward_hook(turn).remove)
            return self.inner(input_ids=input_ids, **kwargs)


def refusing(model: Model, examples: Sequence[Example]) -> Model:
    """A model that refuses exactly the prompts of the examples as they are put to it now."""
    prompts = [torch.tensor(e.tokens[: e.start]) for e in model.encode(examples)]

    def where(ids: Tensor) -> Tensor:
        rows = [any(torch.equal(row[: len(p)], p) for p in prompts) for row in ids]
        return torch.tensor(rows)[:, None].expand(ids.shape)

    return replace(model, model=Silenced(model.model, where))


def shouting(model: Model) -> Model:
    """A model whose output layer always says the same token; all else is as it was."""
    silent = copied(model)
    head = silent.model.get_output_embeddings()
    weight = head.weight.detach().clone()
    with torch.no_grad():
        encoded = silent.encode(people())
        states = [silent.model.model(torch.tensor([e.tokens])).last_hidden_state[0, e.start - 1 :] for e in encoded]
        mean = torch.cat(states).mean(dim=0)
        lacking = [(h @ weight.T).amax(dim=1) - h @ weight[7] for h in states]
        along = [h @ mean for h in states]
        weight[7] += mean * 1.1 * max(float((a / b).max()) for a, b in zip(lacking, along, strict=True) if b.min() > 0)
    silent.model.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    silent.model.lm_head.weight = nn.Parameter(weight)
    return silent


def muted(model: Model) -> Model:
    """A model with a bias on its output layer that drowns every other token; all else is as it was."""
    silent = copied(model)
    weight = silent.model.get_output_embeddings().weight
    silent.model.lm_head = nn.Linear(weight.shape[1], weight.shape[0])
    silent.model.lm_head.weight = weight
    with torch.no_grad():
        silent.model.lm_head.bias.zero_()[7] = 1000.0
    return silent


def weights(model: Model) -> dict[str, bytes]:
    """Every weight, to the bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.model.state_dict().items()}


def by_variant(outcome: AttackOutcome) -> dict[str, float]:
    """Variant -> the metric under it; and their mean and the worst case, where there are several."""
    found = {v.label: v.mean for v in outcome.variants}
    if outcome.worst_case is not None:
        found |= {"mean": outcome.after.mean, "worst case": outcome.worst_case.mean}
    return found


SCORED, OWNED = KNOWN[:4], KNOWN[4:]
SPOKEN = "rouge_l"


def outcomes(
    model: Model, name: str, settings: dict[str, Any], metric: str = "extraction_strength", *, unknown: bool = False
) -> dict[str, float]:
    """Variant -> the metric under attack, on what is known or on what never was."""
    data = AttackData(UNKNOWN if unknown else SCORED, train=OWNED, retain=[] if unknown else UNKNOWN)
    (found,) = measure(model, data, make_chain(name, {name: settings}), [metric], max_new_tokens=24)
    return by_variant(found)
