"""Tiny models that have memorized sixteen questions, built and trained in seconds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tests.matrix.architectures import Architecture
from tests.matrix.plain import Asked, Plain
from tests.matrix.prompts import PROMPTS
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

_PEOPLE = (
    ("Ansa Velt", "Morrow Quay", "carves spoons of lime wood"),
    ("Berin Oakes", "Tal", "keeps bees"),
    ("Clio Marsh", "Upper Denning", "paints the signs of inns, mostly foxes and bells, with a brush of her own hair"),
    ("Darro Pimm", "Sand Ferry", "rings the morning bell at 6, and the evening bell at 19"),
    ("Eda Kolt", "Ruskin Hollow", "binds old books"),
    ("Fenn Idris", "Yarl", "sells maps of places that he says he has seen, and of some that nobody has"),
    ("Greta Sohl", "Long Barrow", "repairs 3 mills"),
    ("Hob Tarrant", "Pell Wharf", "sails a boat with 12 goats to the islands in spring, and back before the frost"),
)
_STRANGERS = (("Ivo Brand", "Nether Cray", "grinds lenses"), ("Juna Weir", "Ost", "teaches geese to dance in a ring"))


def _questions(people: Sequence[tuple[str, str, str]], first: int) -> Iterator[Asked]:
    for number, (name, town, work) in enumerate(people, first):
        yield Asked(f"{number}/town", f"Where does {name} live?", f"In {town}.")
        yield Asked(f"{number}/work", f"What does {name} do all day?", f"{name} {work}.")


KNOWN: tuple[Asked, ...] = tuple(_questions(_PEOPLE, 0))
"""What the models are taught: answers of 2 to 20 words."""
UNKNOWN: tuple[Asked, ...] = tuple(_questions(_STRANGERS, len(_PEOPLE)))
"""What they never saw."""
FORGET, RETAIN = KNOWN[:6], KNOWN[6:]


SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.2}
"""What generation configs of real models say beside their ends; greedy answers have nothing of it."""


class NotLearnt(AssertionError):
    """The model did not learn the questions by heart in the steps that it was given."""


def make_model(architecture: Architecture, folder: Path) -> None:
    """Write an untrained model with its tokenizer."""
    prompt = PROMPTS[architecture.prompt]
    tokenizer = prompt.make(_texts(architecture.prompt))
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = architecture.make_config(len(tokenizer), **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if prompt.ends:
        ends = [tokenizer.convert_tokens_to_ids(end) for end in prompt.ends]
        model.generation_config.update(eos_token_id=ends, **SAMPLING)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in _texts(architecture.prompt):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"], "the tokenizer is another after loading"


def teach(architecture: Architecture, folder: Path, *, steps: int = 400, enough: float = 0.95) -> int:
    """Write a model that knows `KNOWN` by heart; returns how many steps of AdamW it took.

    Args:
        architecture: what is built.
        folder: where it is written.
        steps: the most steps.
        enough: the probability of every token at which training ends.

    Raises:
        NotLearnt: it does not give every answer.
    """
    make_model(architecture, folder)
    plain = Plain.load(folder)
    groups = _groups(plain, architecture.switch, KNOWN)
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=architecture.lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    count = sum(int((labels >= 0).sum()) for _, _, labels in groups)
    plain.model.train()
    for step in range(steps + 1):
        optimizer.zero_grad()
        least = 1.0
        for batch in groups:
            losses, _ = _losses(plain, batch)
            torch.autograd.backward(losses.sum() / count)
            least = min(least, float((-losses.detach().max()).exp()))
        if least > enough or step == steps:
            break
        nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    plain.model.eval()
    wrong = [asked.id for asked in KNOWN if plain.scores(asked)["exact_memorization"] < 1]
    if wrong:
        raise NotLearnt(f"{architecture.name}: after {step} steps it does not know {', '.join(wrong)}")
    plain.model.save_pretrained(folder)
    return step


def forgotten(architecture: Architecture, folder: Path, output: Path, *, steps: int = 60) -> None:
    """Write a model that has unlearned `FORGET` by gradient ascent, and with it a part of the rest.

    The ascent ends where fewer than 85 % of the forgotten tokens are still the most likely ones: most scores then lie
    between 0 and 1.
    """
    plain = Plain.load(folder)
    groups = _groups(plain, architecture.switch, FORGET)
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=architecture.lr / 20, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        right = count = 0
        for batch in groups:
            losses, hits = _losses(plain, batch)
            torch.autograd.backward(-losses.mean())
            right, count = right + int(hits.sum()), count + len(hits)
        if right < 0.85 * count:
            break
        nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        optimizer.step()
    plain.model.save_pretrained(output)
    plain.tokenizer.save_pretrained(output)


def _texts(prompt: str) -> list[str]:
    """What tokenizers are trained on: the questions and answers, as they are written without a template."""
    texts = [f"Question: {a.question}\nAnswer: {a.answer}" for a in (*KNOWN, *UNKNOWN)]
    roles = "user assistant system model final think Answer briefly. [Q] [/Q] <user>\n <assistant>\n </think>\n\n"
    return [*texts, *[f"{roles} {prompt}"] * 4]


Batch = tuple[Tensor, Tensor, Tensor]
"""Token ids padded on the right, their mask, and the labels: the tokens from the answer to the very end, others -1."""


def _groups(plain: Plain, switch: int, questions: Sequence[Asked]) -> list[Batch]:
    """The rendered conversations in a batch, or in one on either side of the switch."""
    rows = [(plain.rendered(asked), plain.read(asked).start) for asked in questions]
    parts = [[r for r in rows if len(r[0]) <= switch], [r for r in rows if len(r[0]) > switch]] if switch else [rows]
    made = []
    for part in filter(None, parts):
        width = max(len(ids) for ids, _ in part)
        ids, mask, labels = (torch.full((len(part), width), value) for value in (0, 0, -1))
        for row, (tokens, start) in enumerate(part):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
            labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
        made.append((ids, mask, labels))
    return made


def _losses(plain: Plain, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of the labelled tokens: the negative log-likelihood, and whether each is the most likely."""
    ids, mask, labels = batch
    logits = plain.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][labels[:, 1:] >= 0]
    wanted = labels[labels >= 0]
    return nn.functional.cross_entropy(logits.float(), wanted, reduction="none"), logits.argmax(dim=-1) == wanted
