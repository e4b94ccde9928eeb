"""The strongest of many attacks: chosen on a part of the questions, and reported on others.

The maximum over attacks of a score on the scored questions themselves is biased upwards: among many attacks without
effect one always looks like a recovery. Here each fold has three parts, whole clusters each. The attacker trains on the
first, chooses the attack by its score on the second, and the third is scored once, under the attack that was chosen.
The folds' third parts together are all scored questions, so that averages and intervals over clusters hold for an
attacker who chooses in this way, however many attacks are tried (the k-fold design of arXiv:2410.08827).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, floor, log
from typing import Any

import numpy as np
import yaml

from uwc import progress
from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.data import AttackData, split_by_subject
from uwc.attacks.evaluate import VariantValues, attacked_values, check_metrics, metric_values, visible
from uwc.attacks.registry import PRECISIONS, attacks
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError, DataError, TrainingDiverged
from uwc.io import plain
from uwc.metrics.registry import metrics
from uwc.metrics.stats import Average, aggregate, aggregate_sets, paired_difference
from uwc.models.model import Model
from uwc.models.token_scores import Floats
from uwc.registry import Entry
from uwc.results import Aggregate, Difference, Spent, Strongest, SurfacePoint, TriedAttack

ETA, ROUNDS = 3, 3
"""One attack in so many goes on to the next round, with so many times the steps and questions; and the most rounds."""
_FEWEST = 2
"""Clusters on which an attack is chosen, at least."""

RATES = (1e-5, 1e-4, 1e-3)
TRIES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "relearn": {"lr": RATES, "lora_rank": (None, 8), "budgets": ((4, 8, 16, 32),)},
    "relearn_wrong": {"lr": RATES, "budgets": ((4, 8, 16, 32),)},
    "relearn_retain": {"lr": RATES, "budgets": ((4, 8, 16, 32),)},
    "relearn_unrelated": {"lr": RATES, "budgets": ((4, 8, 16, 32),)},
    "quantization": {"bits": (8, 6, 4, 3)},
    "quantization_nf4": {"double": (False, True)},
    "pruning": {"share": (0.1, 0.3)},
    "few_shot": {"shots": (1, 5)},
    "soft_prompt": {"lr": (1e-3, 1e-2)},
}
"""Attack -> setting -> the values that are tried where a user names no attack; others are tried as they are."""


@dataclass(frozen=True)
class Fold:
    """A division of the questions, whole clusters each.

    Attributes:
        train: the attacker trains on these.
        choice: the attacker chooses the attack by its score on these.
        scored: these are scored under the attack that was chosen, and have no part in the choice.
    """

    train: Sequence[Example]
    choice: Sequence[Example]
    scored: Sequence[Example]


def cross_fitting(examples: Sequence[Example], number: int, *, seed: int = 0) -> list[Fold]:
    """Folds over clusters: in fold v part v is scored, part v + 1 is chosen on, and the others are trained on.

    Args:
        examples: the questions; those of one subject stay together.
        number: of folds, at least 3.
        seed: of the division.

    Raises:
        ConfigError: fewer than 3 folds.
        DataError: fewer subjects than folds.
    """
    if number < 3:
        raise ConfigError(
            f"folds = {number}: at least 3 are needed, to train on, to choose on and to score; or give the attacker's "
            "own data (--attacker-data)"
        )
    subjects = list(dict.fromkeys(e.subject or e.id for e in examples))
    if len(subjects) < number:
        raise DataError(f"{number} folds of {len(subjects)} subjects: give as many subjects, or fewer folds")
    order = np.random.default_rng(seed).permutation(len(subjects))
    part = {subjects[i]: place % number for place, i in enumerate(order.tolist())}
    parts = [[e for e in examples if part[e.subject or e.id] == p] for p in range(number)]
    return [
        Fold(
            train=[e for p in range(number) if p not in (v, (v + 1) % number) for e in parts[p]],
            choice=parts[(v + 1) % number],
            scored=parts[v],
        )
        for v in range(number)
    ]


def own_part(owned: Sequence[Example], scored: Sequence[Example], *, seed: int = 0) -> list[Fold]:
    """One fold: of the attacker's own data half of the subjects are trained on and half are chosen on.

    Raises:
        DataError: they are of one subject only.
    """
    choice, train = split_by_subject(owned, 0.5, seed=seed, owner="the attacker's choice")
    return [Fold(train, choice, scored)]


@dataclass(frozen=True)
class Candidate:
    """An attack that may be tried.

    Attributes:
        chain: the attack with complete settings.
        varied: attack -> the settings in which it differs from the other candidates of its name.
    """

    chain: Chain
    varied: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The attack with the settings that vary: ``relearn lr=1e-05``."""
        settings = [f"{key}={_short(value)}" for of in self.varied.values() for key, value in of.items()]
        return " ".join([self.chain.name, *settings])


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def candidates(
    names: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
) -> list[Candidate]:
    """Every attack with every combination of the values that vary.

    Args:
        names: attacks and chains of them.
        settings: attack -> setting -> value, where it differs from the default.
        vary: ``"attack.setting"``, or ``"setting"`` for every attack that has it -> the values.

    Raises:
        ConfigError: an unknown attack, setting or value; a setting that no attack has; or an attack that trains on the
            scored answers.
    """
    found: list[Candidate] = []
    unused = dict.fromkeys(vary or ())
    for name in dict.fromkeys(names):
        grid: dict[tuple[str, str], Sequence[Any]] = {}
        for step in name.split("+"):
            attack = PRECISIONS.get(step, (step, {}))[0]
            for key, values in (vary or {}).items():
                of, _, setting = key.rpartition(".")
                if of in ("", attack) and (of or setting in attacks.get(attack).settings):
                    grid[attack, setting] = values
                    unused.pop(key, None)
        found += _combined(name, grid, settings or {})
        if found[-1].chain.trains_on_scored:
            raise ConfigError(
                f"the attack {name!r} trains on the scored answers, and the strongest attack is chosen by what it "
                "recovers beyond those it is given; leave it out"
            )
    if unused:
        key = next(iter(unused))
        raise ConfigError(f"vary {key!r}: none of the attacks has this setting ({', '.join(names)}); name another one")
    return found


def _combined(
    name: str, grid: Mapping[tuple[str, str], Sequence[Any]], settings: Mapping[str, Mapping[str, Any]]
) -> list[Candidate]:
    found = []
    for values in product(*grid.values()):
        chosen: dict[str, dict[str, Any]] = {}
        for (attack, setting), value in zip(grid, values, strict=True):
            chosen.setdefault(attack, {})[setting] = value
        every = {of: {**settings.get(of, {}), **chosen.get(of, {})} for of in {**settings, **chosen}}
        used = {of: given for of, given in every.items() if of in name.split("+") or of in chosen}
        varied = {
            of: {key: value for key, value in given.items() if len(grid[of, key]) > 1} for of, given in chosen.items()
        }
        found.append(Candidate(make_chain(name, used), {of: given for of, given in varied.items() if given}))
    return found


def tried_entries(names: Sequence[str]) -> list[Entry[Any]]:
    """The attacks that a search may carry out, and what these use: those in the chains that are named, or, if none is,
    all that it tries with some data and some metric."""
    tried = candidates(names or [entry.name for entry in filter(_is_tried, attacks)])
    return [entry for candidate in tried for step in candidate.chain.steps for entry in step.used]


def _is_tried(entry: Entry[Any]) -> bool:
    """Whether a search tries an attack that is not named."""
    return not entry.facts["trains_on_scored"] and entry.facts.get("in_search", True)


def every_attack(data: AttackData, metric: str) -> list[Candidate]:
    """What is tried where a user names no attack: all attacks that the data and the metric admit, as `TRIES` has them.

    Attacks that train on scored answers, give a part of them, or only add noise are left out.
    """
    found = []
    for entry in filter(_is_tried, attacks):
        vary = {f"{entry.name}.{key}": values for key, values in TRIES.get(entry.name, {}).items()}
        offered = candidates([entry.name], vary=vary)
        try:
            offered[0].chain.check_data(data)
        except DataError:
            continue
        if visible([metric], offered[0].chain):
            found += offered
    return found


@dataclass(frozen=True)
class Budget:
    """What the search may cost; None for no bound.

    Attributes:
        minutes: of wall time, so that the results depend on the machine.
        runs: the effort of so many complete attacks; a third of an attack's steps and questions counts as a third.
    """

    minutes: float | None = None
    runs: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("minutes", self.minutes), ("runs", self.runs)):
            if value is not None and not value > 0:
                raise ConfigError(f"budget: {name} = {value}; give a positive number")

    def is_spent(self, seconds: float, runs: float) -> bool:
        """Whether nothing is left after these."""
        over = self.minutes is not None and seconds >= 60 * self.minutes
        return over or (self.runs is not None and runs >= self.runs - 1e-9)

    def part(self, of: int) -> "Budget":
        """An equal part."""
        return Budget(*(None if value is None else value / of for value in (self.minutes, self.runs)))


def read_budget(text: str) -> Budget:
    """``"minutes=10"`` or ``"runs=30"``. Raises ConfigError for anything else."""
    name, _, value = text.partition("=")
    try:
        if name == "minutes":
            return Budget(minutes=float(value))
        if name == "runs":
            return Budget(runs=float(value))
    except ValueError:
        pass
    raise ConfigError(f"--budget {text!r}: write minutes=10, or runs=30")


def read_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``["lr=1e-5,1e-4"]`` as setting -> values. Raises ConfigError for anything else."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise ConfigError(f"--vary {text!r}: write a setting and its values: lr=1e-5,1e-4 or relearn.lr=1e-5,1e-4")
        try:
            read = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError as error:
            raise ConfigError(f"--vary {text!r}: {str(error).splitlines()[0]}") from None
        found[name] = [
            float(v) if isinstance(v, str) and _number(v) else tuple(v) if isinstance(v, list) else v for v in read
        ]
    return found


def _number(text: str) -> bool:
    """Whether YAML left a number such as 1e-5 as text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Tried:
    """One variant of a candidate, carried out in one fold.

    Attributes:
        candidate: its place in the list.
        share: of the steps and of the questions that are chosen on.
        variant: the variant; its values are of the questions that are chosen on, then of those scored, if these are.
        choice: [C] its values for the questions that are chosen on.
        scored: [E] its values for the scored questions; None if they are not scored yet.
    """

    candidate: int
    share: float
    variant: VariantValues
    choice: Floats
    scored: Floats | None


@dataclass(frozen=True)
class Search:
    """The search for the strongest attack on one model.

    Attributes:
        model: the model.
        data: the attacker's further data (retain, unrelated, translations); train and scored come from the folds.
        folds: the division of the questions.
        candidates: the attacks.
        metric: the metric, by which attacks are chosen and reported.
        budget: None carries out every candidate in full; a budget is divided by successive halving (arXiv:1603.06560).
        max_new_tokens: the most tokens of a generated answer.
        seed: of the order of the candidates, and of the bootstrap.
    """

    model: Model
    data: AttackData
    folds: Sequence[Fold]
    candidates: Sequence[Candidate]
    metric: str
    budget: Budget | None = None
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ConfigError(
                "there is no attack to try; name one (--attack), or give the attacker more data (--attacker-data)"
            )
        chains = [c.chain for c in self.candidates]
        for fold in self.folds:
            check_metrics([self.metric], chains, examples=fold.scored)
            for chain in chains:
                chain.check_data(self.data_of(fold, fold.scored))

    def run(
        self, *, control: Callable[[], Model] | None = None, original: Callable[[], Model] | None = None
    ) -> Strongest:
        """Choose an attack in each fold and report it.

        Args:
            control: loads a model that was never trained on the data, which is attacked in the same way.
            original: loads the model before unlearning, for the recovered share.
        """
        attempts = self.choose()
        chosen = [attempt.best() for attempt in attempts]
        before = self._values(self.model, self.scored)
        after = np.concatenate(
            [
                self._under_chosen(self.model, fold, best) if best.scored is None else best.scored
                for fold, best in zip(self.folds, chosen, strict=True)
            ]
        )
        control_before = control_after = known = None
        if control is not None:
            never = control()
            control_before = self._values(never, self.scored)
            theirs = [self._under_chosen(never, fold, best) for fold, best in zip(self.folds, chosen, strict=True)]
            control_after = np.concatenate(theirs)
            del never
        if original is not None:
            known = self._values(original(), self.scored)
        share = None
        if known is not None and self._average == "arithmetic":
            parts, subjects = [before, after, known], [self.subjects] * 3
            share = aggregate_sets(recovered_share, parts, subjects, groups=["scored"] * 3, seed=self.seed)
        return Strongest(
            metric=self.metric,
            folds=len(self.folds),
            candidates=len(self.candidates),
            not_tried=sum(attempt.left for attempt in attempts),
            minutes=None if self.budget is None else self.budget.minutes,
            runs=None if self.budget is None else self.budget.runs,
            spent=_sum(attempt.spent for attempt in attempts),
            on_choice=float(np.mean([self.average(best.choice) for best in chosen])),
            choice_before=self._choice_before(before),
            before=self._aggregate(before),
            after=self._aggregate(after),
            recovery=self._difference(before, after),
            control_before=None if control_before is None else self._aggregate(control_before),
            control_after=None if control_after is None else self._aggregate(control_after),
            over_control=None if control_after is None else self._difference(control_after, after),
            original=None if known is None else self._aggregate(known),
            recovered_share=share,
            tried=tuple(row for a, best in zip(attempts, chosen, strict=True) for row in a.listed(best)),
            surface=tuple(self._surface([a.tried for a in attempts], before)) if self.budget is None else (),
        )

    def choose(self) -> list["Attempt"]:
        """Search in each fold, without a look at what is scored.

        Raises:
            AttackFailed: every attack failed.
        """
        attempts = [Attempt(self, fold, number) for number, fold in enumerate(self.folds, start=1)]
        for attempt in attempts:
            attempt.carry_out()
            progress.note(f"fold {attempt.number} of {len(self.folds)}: {self.name(attempt.best())} was chosen")
        return attempts

    def name(self, tried: "Tried") -> str:
        """An attack that was tried, with the settings that vary and its variant."""
        return ", ".join(filter(None, (self.candidates[tried.candidate].name, tried.variant.label)))

    def chain(self, tried: "Tried") -> Chain:
        """An attack that was tried, with the share of its steps with which it was."""
        return scaled(self.candidates[tried.candidate].chain, tried.share)

    @property
    def scored(self) -> list[Example]:
        """All scored questions, fold after fold."""
        return [e for fold in self.folds for e in fold.scored]

    @property
    def subjects(self) -> list[str]:
        """Their subjects."""
        return [e.subject for e in self.scored]

    @property
    def _average(self) -> Average:
        average: Average = metrics.get(self.metric).facts["average"]
        return average

    def _aggregate(self, values: Floats) -> Aggregate:
        return aggregate(values, self.subjects, average=self._average, seed=self.seed)

    def _difference(self, first: Floats, second: Floats) -> Difference:
        return paired_difference(first, second, self.subjects, average=self._average, seed=self.seed)

    def _surface(self, every: Sequence[Sequence["Tried"]], before: Floats) -> list[SurfacePoint]:
        """Each point of the grid on all scored questions: nobody chose it, so its interval needs no correction."""
        by_point: dict[tuple[int, str], list[Tried]] = {}
        for of_fold in every:
            for tried in of_fold:
                by_point.setdefault((tried.candidate, tried.variant.label), []).append(tried)
        found = []
        for (candidate, label), points in by_point.items():
            if len(points) < len(self.folds):
                continue  # it failed in a fold
            values = np.concatenate([p.scored for p in points if p.scored is not None])
            found.append(
                SurfacePoint(
                    attack=self.candidates[candidate].chain.name,
                    settings=_plain(self.candidates[candidate].varied),
                    variant=label,
                    effort=points[0].variant.effort,
                    score=self._aggregate(values),
                    recovery=self._difference(before, values),
                )
            )
        return found

    def data_of(self, fold: Fold, scored: Sequence[Example]) -> AttackData:
        """The attacker's data in a fold, with the questions to score."""
        return replace(self.data, scored=scored, train=fold.train, forget=())

    def under(self, model: Model, attack: Chain, fold: Fold, scored: Sequence[Example]) -> list[VariantValues]:
        """The variants of an attack that trains on a fold's part, scored on some questions."""
        return attacked_values(
            model, self.data_of(fold, scored), attack, [self.metric], max_new_tokens=self.max_new_tokens, texts=False
        )

    def _under_chosen(self, model: Model, fold: Fold, best: Tried) -> Floats:
        """[E] the values of the scored questions under the attack that was chosen."""
        attack = self.chain(best)
        for variant in self.under(model, attack, fold, fold.scored):
            if variant.label == best.variant.label:
                return variant.values[self.metric]
        raise AttackFailed(
            f"the attack {attack.name!r} has no variant {best.variant.label!r} on {model.name}; name other attacks "
            "(--attack)"
        )

    def _values(self, model: Model, examples: Sequence[Example]) -> Floats:
        return metric_values(model, examples, [self.metric], max_new_tokens=self.max_new_tokens)[self.metric]

    def _choice_before(self, before: Floats) -> float:
        """The metric without an attack on the questions that are chosen on, of which some are scored, in the mean over
        folds."""
        values = dict(zip((e.id for e in self.scored), before.tolist(), strict=True))
        others = [e for fold in self.folds for e in fold.choice if e.id not in values]
        if others:
            values.update(zip((e.id for e in others), self._values(self.model, others).tolist(), strict=True))
        return float(np.mean([self.average(np.array([values[e.id] for e in fold.choice])) for fold in self.folds]))

    def average(self, values: Floats) -> float:
        """The metric's average; NaN without a value."""
        kept = values[~np.isnan(values)]
        if not len(kept):
            return float("nan")
        if self._average == "geometric":
            with np.errstate(divide="ignore"):
                return float(np.exp(np.log(kept).mean()))
        return float(kept.mean())

    def preference(self, values: Floats) -> float:
        """The score by which attacks are chosen: the average, in the direction in which more is remembered."""
        sign = 1.0 if metrics.get(self.metric).facts["higher_remembers"] else -1.0
        average = self.average(values)
        return sign * average if np.isfinite(average) else -np.inf


def recovered_share(before: Floats, after: Floats, original: Floats) -> float:
    """The share of what unlearning took that an attack gives back: ``(mean after - mean before) / (mean original - mean
    before)``, NaN if unlearning took nothing (arXiv:2410.08827)."""
    taken = original.mean() - before.mean()
    return float((after.mean() - before.mean()) / taken) if taken else float("nan")


class Attempt:
    """The search in one fold."""

    def __init__(self, search: Search, fold: Fold, number: int) -> None:
        self.search, self.fold, self.number = search, fold, number
        self.tried: list[Tried] = []
        self.failed: dict[int, str] = {}
        self.spent = Spent(runs=0, steps=0, tokens=0, seconds=0.0)
        self.left = 0

    def carry_out(self) -> None:
        """Carry out the candidates: all of them, or in rounds within the budget."""
        search, count = self.search, len(self.search.candidates)
        if search.budget is None:
            self._round(range(count), 1.0, None)
            return
        rounds = halvings(count)
        part = search.budget.part(len(search.folds) * len(rounds))
        going = order_of(count, seed=search.seed)
        for number, (share, keep) in enumerate(rounds):
            done = self._round(going, share, part)
            if number == 0:
                self.left = count - done
            scores = {c: self._score(c, share) for c in going if any(self._of(c, share))}
            going = sorted(scores, key=lambda c: -scores[c])[:keep]
            if not going:
                break

    def _round(self, going: Sequence[int], share: float, budget: Budget | None) -> int:
        """Carry out candidates with a share of steps and questions, until the budget is spent; at least one."""
        search, fold = self.search, self.fold
        choice = part_of(fold.choice, share)
        asked = [*choice, *fold.scored] if budget is None else choice
        began, done = time.monotonic(), 0
        name = f"fold {self.number}, attacks with {share:.0%} of their steps"
        with progress.bar(name, total=len(going), alike=False) as advance:
            for number in going:
                if done and budget is not None and budget.is_spent(time.monotonic() - began, share * done):
                    break
                self._attack(number, share, asked, len(choice))
                done += 1
                advance(note=search.candidates[number].name)
        return done

    def _attack(self, number: int, share: float, asked: Sequence[Example], choice: int) -> None:
        search, began = self.search, time.monotonic()
        variants: list[VariantValues] = []
        try:
            variants = search.under(search.model, scaled(search.candidates[number].chain, share), self.fold, asked)
        except (AttackFailed, TrainingDiverged, DataError) as error:  # a prompt may not fit into the context
            self.failed[number] = str(error)
            progress.warn(f"{search.candidates[number].name}: {error}")
        for variant in variants:
            values = variant.values[search.metric]
            scored = values[choice:] if len(values) > choice else None
            self.tried.append(Tried(number, share, variant, values[:choice], scored))
        tokens = max((v.tokens for v in variants), default=0)
        steps = max((v.effort or 0 for v in variants), default=0) if tokens else 0
        run = Spent(runs=1, steps=int(steps), tokens=tokens, seconds=time.monotonic() - began)
        self.spent = _sum([self.spent, run])

    def _of(self, candidate: int, share: float) -> Iterator[Tried]:
        return (t for t in self.tried if (t.candidate, t.share) == (candidate, share))

    def _score(self, candidate: int, share: float) -> float:
        """The best score of a candidate's variants in a round."""
        return max(self.search.preference(t.choice) for t in self._of(candidate, share))

    def best(self) -> Tried:
        """The variant with the best score, out of those with the most questions.

        Raises:
            AttackFailed: every attack failed.
        """
        if not self.tried:
            raise AttackFailed(f"every attack failed; the first: {next(iter(self.failed.values()))}")
        last = max(t.share for t in self.tried)
        return max((t for t in self.tried if t.share == last), key=lambda t: self.search.preference(t.choice))

    def listed(self, best: Tried) -> list[TriedAttack]:
        """What was tried, for the results."""

        def row(number: int) -> dict[str, Any]:
            candidate = self.search.candidates[number]
            return {"attack": candidate.chain.name, "settings": _plain(candidate.varied), "fold": self.number}

        found = [
            TriedAttack(
                **row(t.candidate),
                variant=t.variant.label,
                effort=t.variant.effort,
                share=t.share,
                on_choice=self.search.average(t.choice),
                n=len(t.choice),
                chosen=t is best,
            )
            for t in self.tried
        ]
        return found + [TriedAttack(**row(number), failed=why) for number, why in self.failed.items()]


def halvings(count: int) -> list[tuple[float, int]]:
    """The rounds of successive halving: the share of steps and questions, and how many attacks go on after it.

    With n attacks there are ``K = min(3, 1 + floor(log_3 n))`` rounds; round k of 0..K - 1 has the share
    ``3^(k - K + 1)``, at least a ninth, and keeps one attack in three.

    Args:
        count: the number of attacks, n.
    """
    rounds = min(ROUNDS, 1 + floor(log(count, ETA) + 1e-9))
    return [(float(ETA) ** (k - rounds + 1), ceil(count / ETA ** (k + 1))) for k in range(rounds)]


def order_of(count: int, *, seed: int) -> list[int]:
    """The order in which a search with a budget carries out its attacks."""
    return [int(i) for i in np.random.default_rng(seed).permutation(count)]


def carried_out(count: int, runs: float) -> list[tuple[float, int]]:
    """The share of each round, and how many attacks a budget of runs in one fold lets it carry out, if none fails.

    A round has an equal part of the budget, ends with the attack that exceeds it, and carries out at least one.

    Args:
        count: the number of attacks.
        runs: the budget.
    """
    rounds, going, found = halvings(count), count, []
    for share, keep in rounds:
        done = min(going, max(1, ceil((runs / len(rounds) - 1e-9) / share)))
        found.append((share, done))
        going = min(keep, done)
    return found


def scaled(attack: Chain, share: float) -> Chain:
    """An attack with a share of its steps, at least one; of its budgets those that are left."""
    return Chain(tuple(replace(step, settings=_scaled(step.settings, share)) for step in attack.steps))


def _scaled(settings: Mapping[str, Any], share: float) -> Mapping[str, Any]:
    budgets = settings.get("budgets") or ()
    steps = settings.get("steps") or max(budgets, default=None)
    if share == 1 or steps is None:
        return settings
    fewer = max(1, round(share * steps))
    changed: dict[str, Any] = {"steps": fewer}
    if budgets:
        changed["budgets"] = tuple(b for b in budgets if b <= fewer) or (fewer,)
    return {**settings, **changed}


def part_of(examples: Sequence[Example], share: float) -> list[Example]:
    """The questions of a share of the clusters, at least two."""
    subjects = list(dict.fromkeys(e.subject or e.id for e in examples))
    kept = set(subjects[: max(_FEWEST, ceil(share * len(subjects) - 1e-9))])
    return [e for e in examples if (e.subject or e.id) in kept]


def _sum(parts: Iterable[Spent]) -> Spent:
    every = list(parts)
    return Spent(**{name: sum(getattr(part, name) for part in every) for name in Spent.model_fields})


def _plain(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {of: plain(given) for of, given in settings.items()}
