"""Every architecture by everything that is done to a model, against plain transformers, one sequence at a time.

The fast ones run with all tests, the others by ``make matrix``. What is compared with is in `plain.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from tests.matrix.architectures import ARCHITECTURES, Architecture
from tests.matrix.plain import Asked, Plain, Reading, block_matrices, descend, probed, quantized, rouge_l
from tests.matrix.teach import FORGET, KNOWN, RETAIN, UNKNOWN, forgotten, make_model, teach

import uwc
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.prompts import TEMPLATES
from uwc.metrics.scored import ScoredSet
from uwc.models.load import save_model

T = TypeVar("T")
SCORES = ["extraction_strength", "exact_memorization", "probability", "perplexity"]
MEASURED = SCORES[:3]
TEXTS = ["rouge_l", "rouge_l_f1"]
NEW_TOKENS = 16
UNLEARNED = FORGET[:4]
ATTACKED, ATTACKER = FORGET[2:], FORGET[:2]


@dataclass
class Taught:
    """A model that knows `KNOWN`, and the same after it was made to forget some of it.

    Attributes:
        architecture: what it is.
        folder: where it is.
        unlearned: where the other is.
    """

    architecture: Architecture
    folder: Path
    unlearned: Path

    @cached_property
    def plain(self) -> Plain:
        return Plain.load(self.folder, self.architecture.blocks)

    @cached_property
    def plain_unlearned(self) -> Plain:
        return Plain.load(self.unlearned, self.architecture.blocks)


@dataclass
class Cell:
    """What one test compares, and the largest difference that it saw.

    Attributes:
        name: the cell.
        architecture: of the model.
        properties: what the report of the test is given.
        largest: the largest difference so far.
    """

    name: str
    architecture: Architecture
    properties: list[tuple[str, object]]
    largest: float = 0.0

    def measured(self, call: Callable[[], T]) -> T | None:
        """What uwc measures; None where it must be refused, and is."""
        refused = self.architecture.refused
        reason = refused.get(self.name) or (refused.get("all") if self.name != "save-load" else None)
        if reason is None:
            return call()
        with pytest.raises(uwc.UserError, match=reason) as caught:
            call()
        assert "\n" not in str(caught.value)
        self.properties.append(("refused", str(caught.value).split(": ", 1)[-1]))
        return None

    def compare(self, what: str, ours: Any, theirs: Any, *, tolerance: float | None = None) -> None:
        """Require equal numbers up to a tolerance, by default the architecture's for scores."""
        first, second = (np.asarray(values, dtype=np.float64) for values in (ours, theirs))
        assert first.shape == second.shape, f"{what}: shapes {first.shape} and {second.shape}"
        difference = float(np.abs(first - second).max())
        self.largest = max(self.largest, difference if difference == difference else np.inf)
        self.properties.append(("deviation", self.largest))
        bound = self.architecture.tolerance if tolerance is None else tolerance
        assert difference <= bound, f"{what}: off by {difference:.2g}: {first.round(4)}, and not {second.round(4)}"


def _parameters() -> Iterator[Any]:
    for name, architecture in ARCHITECTURES.items():
        yield pytest.param(name, marks=() if architecture.fast else pytest.mark.matrix)


@pytest.fixture(scope="session", params=_parameters())
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    torch.set_num_threads(1)
    architecture = ARCHITECTURES[request.param]
    root = tmp_path_factory.mktemp(request.param)
    made = Taught(architecture, root / "taught", root / "unlearned")
    if "all" in architecture.refused:
        make_model(architecture, made.folder)
        copytree(made.folder, made.unlearned)
    else:
        teach(architecture, made.folder)
        forgotten(architecture, made.folder, made.unlearned)
    yield made
    rmtree(root)


@pytest.fixture
def cell(request: pytest.FixtureRequest, taught: Taught) -> Cell:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")
    properties = request.node.user_properties
    properties.append(("cell", (taught.architecture.name, name)))
    return Cell(name, taught.architecture, properties)


def examples(questions: Sequence[Asked]) -> list[uwc.Example]:
    return [uwc.Example(a.id, a.question, a.answer) for a in questions]


def column(scores: Sequence[dict[str, float]], metric: str) -> list[float]:
    """A metric of the reference; of perplexity its logarithm."""
    return [float(np.log(s[metric])) if metric == "perplexity" else s[metric] for s in scores]


def test_score(taught: Taught, cell: Cell) -> None:
    """Questions of very different lengths, known and not, by a model that knows them and one that half forgot."""
    asked = [*KNOWN, *UNKNOWN]
    for folder, plain in ((taught.folder, taught.plain), (taught.unlearned, taught.plain_unlearned)):
        found = cell.measured(lambda folder=folder: uwc.score(folder, examples(asked), metrics=SCORES, device="cpu"))
        if found is None:
            return
        table = found.answers
        assert list(table["id"]) == [a.id for a in asked]
        theirs = [plain.scores(a) for a in asked]
        for metric in SCORES:
            ours = np.log(table[metric]) if metric == "perplexity" else table[metric]
            exact = metric in SCORES[:2]
            cell.compare(f"{folder.name} {metric}", ours, column(theirs, metric), tolerance=1e-9 if exact else None)
    wrong = [tuple(asked[(i + step) % len(asked)].answer for step in (2, 4, 6)) for i in range(len(asked))]
    several = [replace(e, perturbed_answers=w) for e, w in zip(examples(asked), wrong, strict=True)]
    means = {"choice_margin": {"length": "mean"}}
    margins = uwc.score(taught.unlearned, several, metrics=["choice_margin"], settings=means, device="cpu").answers
    plain = taught.plain_unlearned
    found = [[plain.mean(replace(a, answer=t)) for t in (a.answer, *w)] for a, w in zip(asked, wrong, strict=True)]
    cell.compare("several answers", margins["choice_margin"], [own - max(others) for own, *others in found])


def test_text(taught: Taught, cell: Cell, tmp_path: Path) -> None:
    for folder, plain, asked in (
        (taught.folder, taught.plain, [*KNOWN[:4], *UNKNOWN[:1]]),
        (taught.unlearned, taught.plain_unlearned, KNOWN[1:4]),
    ):
        found = cell.measured(
            lambda folder=folder, asked=asked: uwc.score(
                folder,
                examples(asked),
                metrics=TEXTS,
                max_new_tokens=NEW_TOKENS,
                device="cpu",
                output_dir=tmp_path / folder.name,
            )
        )
        if found is None:
            return
        theirs = [plain.text(a, max_new_tokens=NEW_TOKENS) for a in asked]
        scored = ScoredSet.load(tmp_path / folder.name, "forget")
        assert list(scored.texts) == theirs
        rouge = [rouge_l(a.answer, text) for a, text in zip(asked, theirs, strict=True)]
        for metric in TEXTS:
            ours = found.answers[metric]
            cell.compare(metric, ours, [r[metric] for r in rouge], tolerance=1e-9)


def _unlearn(taught: Taught, cell: Cell, method: str, output: Path, **settings: Any) -> list[dict[str, float]] | None:
    """The log of an unlearning run in which each step sees all forget examples, and one retain example with each."""
    fixed = {"batch_size": len(UNLEARNED), "schedule": "constant", "warmup_ratio": 0.0}
    run = partial(
        uwc.unlearn,
        taught.unlearned,
        method,
        forget=examples(UNLEARNED),
        retain=examples(RETAIN[-1:]),
        training={**fixed, **settings},
        output_dir=output,
        device="cpu",
    )
    done = cell.measured(run)
    return None if done is None else [dict(row) for row in done.rows()]


def test_unlearn(taught: Taught, cell: Cell, tmp_path: Path) -> None:
    """Losses and weights of gradient difference by plain descent, and losses of gradient ascent by AdamW."""
    forget_part = [(-1.0, UNLEARNED)]
    both = [*forget_part, (1.0, RETAIN[-1:])]
    for method, terms, optimizer, lr in (("gd", both, "sgd", 0.5), ("ga", forget_part, "adamw", 1e-3)):
        out = tmp_path / method
        log = _unlearn(taught, cell, method, out, epochs=2, lr=lr, optimizer=optimizer, clip=0.1)
        if log is None:
            return
        plain = taught.plain_unlearned.copy()
        readings = [(weight, [plain.read(a) for a in asked]) for weight, asked in terms]
        losses = descend(plain, readings, steps=2, lr=lr, optimizer=optimizer, clip=0.1)
        cell.compare(f"{method} losses", [step["loss"] for step in log], losses, tolerance=1e-4)
        if optimizer == "sgd":
            made, start = Plain.load(out).state, taught.plain_unlearned.state
            moved = max(float((w - start[name]).abs().max()) for name, w in plain.state.items())
            for name, weight in plain.state.items():
                cell.compare(f"{name}, of the largest change", made[name] / moved, weight / moved, tolerance=1e-3)


def test_calibrate(taught: Taught, cell: Cell, tmp_path: Path) -> None:
    """The scores at the mixture found, that it keeps enough and none above does, and the weights that are saved."""
    tau = 0.9
    found = cell.measured(
        lambda: uwc.calibrate(
            taught.folder,
            taught.unlearned,
            forget=examples(FORGET),
            retain=examples(RETAIN),
            retention=uwc.Retention(tau=tau),
            curve=False,
            save=tmp_path / "calibrated",
            device="cpu",
        )
    )
    if found is None:
        return

    def strength(alpha: float, asked: Sequence[Asked]) -> float:
        mixed = taught.plain.mixed(taught.plain_unlearned, alpha)
        return float(np.mean([mixed.scores(a)["extraction_strength"] for a in asked]))

    calibration = found.calibration
    scores = {s.set: s.mean for s in found.scores if s.condition == "calibrated"}
    alpha, upper, enough = calibration.alpha, calibration.upper, tau * strength(0.0, RETAIN)
    cell.compare("retain", scores["retain"], strength(alpha, RETAIN), tolerance=1e-9)
    cell.compare("forget", scores["forget"], strength(alpha, FORGET), tolerance=1e-9)
    assert scores["retain"] >= enough - 1e-9
    beyond = [] if alpha == 1 else [upper, *(k / 8 for k in range(1, 9) if k / 8 > upper + 1 / 16)]
    for larger in beyond:
        assert larger in calibration.unchecked or strength(larger, RETAIN) < enough, f"alpha {larger} keeps enough"
    assert alpha == 1 or upper - alpha <= 2 / 128 + 1e-9
    saved, mixed = (
        p.state for p in (Plain.load(tmp_path / "calibrated"), taught.plain.mixed(taught.plain_unlearned, alpha))
    )
    assert saved.keys() == mixed.keys()
    cell.compare("saved weights", max(float((saved[n] - mixed[n]).abs().max()) for n in mixed), 0.0, tolerance=1e-6)


def _after(
    taught: Taught,
    cell: Cell,
    attack: str,
    *,
    model: Path | None = None,
    metrics: Sequence[str] = MEASURED,
    **settings: Any,
) -> dict[str, dict[str, float]] | None:
    """Variant -> metric -> its mean under attack; the variant "" is that without a name."""
    attacker = uwc.Attacker(train=examples(ATTACKER), retain=examples(RETAIN[:2]))
    results = cell.measured(
        lambda: uwc.attack(
            model or taught.unlearned,
            examples(ATTACKED),
            [attack],
            attacker=attacker,
            settings={attack: settings} if settings else {},
            metrics=metrics,
            max_new_tokens=NEW_TOKENS,
            device="cpu",
        )
    )
    if results is None:
        return None
    found: dict[str, dict[str, float]] = {}
    for outcome in results.attacks.models[0].outcomes:
        for variant in outcome.variants:
            found.setdefault(variant.label, {})[outcome.metric] = variant.mean
    return found


def _mean_scores(plain: Plain, asked: Sequence[Asked | Reading]) -> dict[str, float]:
    scores = [plain.scores(a) for a in asked]
    return {metric: float(np.mean(column(scores, metric))) for metric in MEASURED}


def _compare_means(cell: Cell, what: str, ours: dict[str, float], theirs: dict[str, float], tolerance: float) -> None:
    for metric, value in theirs.items():
        cell.compare(f"{what} {metric}", ours[metric], value, tolerance=tolerance)


def test_attack_weights(taught: Taught, cell: Cell) -> None:
    """Quantization of every matrix of the blocks, and relearning."""
    architecture = taught.architecture
    found = _after(taught, cell, "quantization", model=taught.folder, bits=3, group_size=16)
    if found is None:
        return
    plain = taught.plain.copy()
    quantized(plain, block_matrices(plain, architecture.inputs_first, architecture.leave), bits=3, group=16)
    _compare_means(cell, "quantization", found[""], _mean_scores(plain, ATTACKED), architecture.tolerance)
    relearnt = _after(taught, cell, "relearn", steps=2, lr=1e-3)
    assert relearnt is not None
    plain = taught.plain_unlearned.copy()
    descend(plain, [(1.0, [plain.read(a) for a in ATTACKER])], steps=2, lr=1e-3, optimizer="adamw", clip=1.0)
    _compare_means(cell, "relearn", relearnt[""], _mean_scores(plain, ATTACKED), 1e-4)


def test_attack_inside(taught: Taught, cell: Cell) -> None:
    """The logit lens and a probe: after the last block, and after the first."""
    depth = len(taught.plain.blocks) if "all" not in taught.architecture.refused else 2
    layers = (1, depth)
    found = _after(taught, cell, "logit_lens", layers=layers)
    if found is None:
        return
    for layer in layers:
        cut = taught.plain_unlearned.truncated(layer) if layer < depth else taught.plain_unlearned
        theirs = _mean_scores(cut, ATTACKED)
        _compare_means(cell, f"lens at {layer}", found[f"layer {layer}"], theirs, taught.architecture.tolerance)
    found = _after(taught, cell, "probe", layers=layers, epochs=3, lr=1e-2, positions=100_000)
    assert found is not None
    for layer in layers:
        trained = [taught.plain.read(a) for a in (*ATTACKER, *RETAIN[:2])]
        head = probed(taught.plain_unlearned, trained, layer, steps=3, lr=1e-2)
        _compare_means(cell, f"probe at {layer}", found[f"layer {layer}"], _mean_scores(head, ATTACKED), 1e-4)
    texts = _after(taught, cell, "logit_lens", layers=(depth,), metrics=TEXTS)
    assert texts is not None
    _compare_texts(cell, "lens", texts[f"layer {depth}"], taught.plain_unlearned)


def test_attack_prompt(taught: Taught, cell: Cell) -> None:
    """Jailbreak templates, which put the question otherwise, and token noise, scored on the same ids."""
    found = _after(taught, cell, "jailbreak", kinds=("role play", "output format"))
    if found is None:
        return
    for template in TEMPLATES:
        if template.kind in ("role play", "output format"):
            put = [replace(a, question=template.text.replace("{question}", a.question)) for a in ATTACKED]
            theirs = _mean_scores(taught.plain_unlearned, put)
            _compare_means(cell, template.name, found[template.name], theirs, taught.architecture.tolerance)
    noisy = _after(taught, cell, "token_noise", rate=0.2)
    assert noisy is not None
    readings = list(_with_noise(taught, rate=0.2))
    theirs = _mean_scores(taught.plain_unlearned, readings)
    _compare_means(cell, "token noise", noisy[""], theirs, taught.architecture.tolerance)


def _with_noise(taught: Taught, rate: float) -> Iterator[Reading]:
    """The ids that token noise makes, in which no special token and no end is changed."""
    model = uwc.load_model(taught.unlearned, device="cpu")
    data, chain = AttackData(examples(ATTACKED)), make_chain("token_noise", {"token_noise": {"rate": rate}})
    with attacked(model, data, chain) as variants:
        (variant,) = variants
        encoded = variant.model.encode(data.scored)
    for asked, noisy in zip(ATTACKED, encoded, strict=True):
        reading = taught.plain.read(asked)
        assert len(noisy.tokens) == len(reading.ids)
        changed = [i for i, (a, b) in enumerate(zip(reading.ids, noisy.tokens, strict=True)) if a != b]
        assert changed and max(changed) < reading.end
        assert not {reading.ids[i] for i in changed} & taught.plain.special
        yield replace(reading, ids=tuple(noisy.tokens))


def test_attack_decoding(taught: Taught, cell: Cell) -> None:
    """Beam search; the reference's has no cache, which transformers does not always put in the order of the beams."""
    found = _after(taught, cell, "beam_search", metrics=TEXTS, beams=3)
    if found is not None:
        _compare_texts(cell, "beam search", found[""], taught.plain_unlearned, num_beams=3, use_cache=False)


def _compare_texts(cell: Cell, what: str, ours: dict[str, float], plain: Plain, **settings: Any) -> None:
    texts = [plain.text(a, max_new_tokens=NEW_TOKENS, **settings) for a in ATTACKED]
    rouge = [rouge_l(a.answer, text) for a, text in zip(ATTACKED, texts, strict=True)]
    _compare_means(cell, what, ours, {m: float(np.mean([r[m] for r in rouge])) for m in TEXTS}, 1e-9)


def test_save_load(taught: Taught, cell: Cell, tmp_path: Path) -> None:
    """What uwc loads and writes again is to plain transformers the same model, with the same prompts and ends."""
    if cell.measured(lambda: save_model(uwc.load_model(taught.folder, device="cpu"), tmp_path) or True) is None:
        return
    again, before = Plain.load(tmp_path, taught.architecture.blocks), taught.plain
    assert again.state.keys() == before.state.keys()
    for name, weight in before.state.items():
        assert torch.equal(again.state[name], weight), name
    for asked in KNOWN:
        assert again.rendered(asked) == before.rendered(asked)
        assert again.read(asked) == before.read(asked)
    assert again.model.generation_config.to_diff_dict() == before.model.generation_config.to_diff_dict()
    assert type(again.tokenizer) is type(before.tokenizer)
    cell.compare("probability", again.scores(KNOWN[0])["probability"], before.scores(KNOWN[0])["probability"])
