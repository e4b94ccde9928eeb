"""The unlearning methods: each a named composition of terms with at most one rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from uwc.errors import ConfigError
from uwc.objectives.registry import ROLES, role_of, terms, tricks
from uwc.objectives.rules import (
    L1,
    Contrast,
    Gru,
    Lat,
    MiniUnlearning,
    Negate,
    Prune,
    Rule,
    Sam,
    Undo,
    changed_rule,
)
from uwc.objectives.spaces import COMMON, WEIGHT, Around, Range, Space
from uwc.registry import unknown_name


@dataclass(frozen=True)
class Constraint:
    """A bound of a term, kept by a dual variable in place of its weight (arXiv:2506.05314).

    The loss has ``a (L - bound)``; after each step ``a <- max(0, a + step (L - bound))``, L the step's mean over all
    its micro-batches and processes. The dual variable starts at the term's weight.

    Attributes:
        bound: the bound of the term's mean.
        step: the step size of the dual variable.
        warmup: share of the run over which the dual variable is constant.
    """

    bound: float
    step: float = 1.0
    warmup: float = 0.0

    def updated(self, dual: float, value: float, *, progress: float) -> float:
        """The dual variable after a step whose mean was `value`, at `progress` in 0..1 of the run."""
        return dual if progress < self.warmup else max(0.0, dual + self.step * (value - self.bound))


@dataclass(frozen=True)
class WeightedTerm:
    """A registered term, its coefficient in the sum, and its settings.

    Attributes:
        term: its name.
        weight: its coefficient; with a constraint the first value of its dual variable.
        settings: those that differ from its defaults.
        roles: declared role -> the role that plays it, as in ``{"refusal": "alternative"}``.
        constraint: the bound to keep it below, if any.
    """

    term: str
    weight: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    constraint: Constraint | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "WeightedTerm":
        """The term from plain data."""
        constraint = record.get("constraint")
        return cls(**{**record, "constraint": Constraint(**constraint) if constraint else None})

    @property
    def label(self) -> str:
        """The name, with the roles that replace the declared ones."""
        return self.term + (f"({', '.join(self.roles.values())})" if self.roles else "")


@dataclass(frozen=True)
class Method:
    """A weighted sum of terms, and at most one rule. Its loss is ``sum_k weight_k L_k``.

    Attributes:
        name: what users write.
        summary: one line.
        source: where it is defined.
        terms: the sum.
        rule: a change of weights or logits besides gradient steps, if any.
        further: what a search of hyper-parameters tries besides what is common to all methods.
    """

    name: str
    summary: str
    source: str
    terms: tuple[WeightedTerm, ...]
    rule: Rule | None = None
    further: Space = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The search space of its hyper-parameters: `COMMON`, the weights of terms besides the first, as only their
        ratios matter, and what it declares."""
        names = [t.term for t in self.terms]
        weighted = [t.term for t in self.terms[1:] if t.constraint is None and names.count(t.term) == 1]
        return {**COMMON, **{f"weights.{name}": WEIGHT for name in weighted}, **self.further}

    @property
    def roles(self) -> set[str]:
        """The roles whose passes its terms read."""
        needs = [(t, role_of(need)) for t in self.terms for need in terms.get(t.term).facts["needs"]]
        return {t.roles.get(role, role) for t, role in needs}

    @property
    def answer_pools(self) -> set[str]:
        """The sources of the answers that it trains on; see `uwc.objectives.registry.Role`."""
        return {ROLES[role].answers for role in self.roles}

    @property
    def retains(self) -> bool:
        """Whether it trains on questions or answers of the retain set."""
        roles = [ROLES[role] for role in self.roles]
        return isinstance(self.rule, Undo) or any("retain" in (r.questions, r.answers.partition("_")[0]) for r in roles)

    @property
    def forgotten_roles(self) -> set[str]:
        """The roles whose answers become less likely; those of other roles are learned or retained."""
        declared = ((t, {role_of(need) for need in terms.get(t.term).facts["needs"]}) for t in self.terms)
        return {t.roles.get("forget", "forget") for t, roles in declared if "forget" in roles}

    @property
    def stops_early(self) -> bool:
        """Whether its runs can be stopped early: not if the model forgets only after the last step."""
        return self.rule is None or not self.rule.forgets_last

    def with_rule(self, given: Mapping[str, Any]) -> "Method":
        """The method with changed settings of its rule, or another rule; see `changed_rule`."""
        return replace(self, rule=changed_rule(self.rule, given, where=f"the method {self.name!r}"))

    @property
    def formula(self) -> str:
        """The sum in the terms' notation, and the rule's formula."""
        besides = () if self.rule is None else (self.rule.formula,)
        return "; ".join([" + ".join(_formula(t) for t in self.terms), *besides])


def _formula(term: WeightedTerm) -> str:
    facts = terms.get(term.term).facts
    several = len({role_of(need) for need in facts["needs"]}) > 1
    played = ", ".join(f"{role}: {actual}" if several else actual for role, actual in term.roles.items())
    what = f"{term.term}{f'({played})' if played else ''}[{facts['formula']}]"
    if term.constraint is not None:
        return f"a ({what} - {term.constraint.bound:g})"
    return what if term.weight == 1 else f"{term.weight:g} {what}"


_GA, _NLL, _KL, _REFUSAL = (WeightedTerm(t) for t in ("gradient_ascent", "nll", "kl", "refusal"))
_NPO: Space = {"settings.npo.beta": Range(low=0.05, high=2.0, log=True)}
_DPO: Space = {"settings.dpo.beta": Range(low=0.01, high=1.0, log=True)}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ga", "gradient ascent on the forget answers", "arXiv:2210.01504", (_GA,)),
        Method("gd", "gradient difference: ascent on forget, descent on retain answers", "arXiv:2203.12817",
               (_GA, _NLL)),
        Method("kl", "gradient ascent, divergence from the original on retain answers", "arXiv:2401.06121",
               (_GA, _KL)),
        Method("po", "preference optimization: answer forget questions with refusals", "arXiv:2401.06121",
               (_REFUSAL,)),
        Method("idk", "refusals on forget questions, descent on retain answers", "arXiv:2401.06121",
               (_REFUSAL, _NLL)),
        Method("idk-ap", "refusals on forget questions, answers preferred to refusals on retain questions",
               "arXiv:2410.08109", (_REFUSAL, WeightedTerm("answer_preservation")),
               further={"settings.answer_preservation.beta": Range(low=0.01, high=1.0, log=True)}),
        Method("dpo", "direct preference optimization: refusals over forget answers", "arXiv:2305.18290",
               (WeightedTerm("dpo"), _NLL),
               further=_DPO),
        Method("altpo", "alternate preference optimization: other plausible answers over forget answers",
               "arXiv:2409.13474", (WeightedTerm("dpo", roles={"refusal": "alternative"}), _NLL),
               further=_DPO),
        Method("npo", "negative preference optimization", "arXiv:2404.05868", (WeightedTerm("npo"),),
               further=_NPO),
        Method("npo-gd", "negative preference optimization, descent on retain answers", "arXiv:2404.05868",
               (WeightedTerm("npo"), _NLL),
               further=_NPO),
        Method("npo-kl", "negative preference optimization, divergence from the original on retain answers",
               "arXiv:2404.05868", (WeightedTerm("npo"), _KL),
               further=_NPO),
        Method("simnpo", "negative preference optimization without a reference", "arXiv:2410.07163",
               (WeightedTerm("simnpo", weight=0.125), _NLL),
               further={"settings.simnpo.beta": Range(low=1.0, high=10.0, log=True),
                        "settings.simnpo.delta": Range(low=0.0, high=2.0)}),
        Method("npo-on-policy", "negative preference optimization of answers sampled from the model itself",
               "arXiv:2404.14367", (WeightedTerm("npo", roles={"forget": "sampled"}), _NLL),
               further=_NPO),
        Method("dpo-on-policy", "refusals preferred to answers sampled from the model itself", "arXiv:2404.14367",
               (WeightedTerm("dpo", roles={"forget": "sampled"}), _NLL),
               further=_DPO),
        Method("altpo-on-policy", "answers sampled from the model itself preferred to forget answers",
               "arXiv:2404.14367", (WeightedTerm("dpo", roles={"refusal": "sampled"}), _NLL),
               further=_DPO),
        Method("rmu", "misdirect forget states, keep retain states", "arXiv:2403.03218",
               (WeightedTerm("misdirection"), WeightedTerm("activation_distance")),
               further={"settings.misdirection.coefficient": Range(low=0.5, high=20.0, log=True)}),
        Method("rmu-long", "misdirect forget states to a long random target, without a retain term",
               "arXiv:2406.09179", (WeightedTerm("misdirection_long"),),
               further={"settings.misdirection_long.coefficient": Range(low=0.5, high=20.0, log=True)}),
        Method("undial", "self-distillation with the true token's logit lowered", "arXiv:2402.10052",
               (WeightedTerm("self_distillation"),),
               further={"settings.self_distillation.beta": Range(low=2.0, high=30.0, log=True)}),
        Method("wga", "gradient ascent weighted by each token's likelihood", "arXiv:2502.19301",
               (WeightedTerm("weighted_ascent"),),
               further={"settings.weighted_ascent.beta": Range(low=0.5, high=10.0, log=True)}),
        Method("tnpo", "negative preference optimization token by token", "arXiv:2502.19301",
               (WeightedTerm("token_npo"),),
               further={"settings.token_npo.beta": Range(low=0.5, high=10.0, log=True)}),
        Method("wtnpo", "token-wise negative preference optimization weighted by likelihood", "arXiv:2502.19301",
               (WeightedTerm("weighted_token_npo"),),
               further={"settings.weighted_token_npo.beta": Range(low=0.5, high=10.0, log=True),
                        "settings.weighted_token_npo.alpha": Range(low=0.0, high=3.0)}),
        Method("satimp", "gradient ascent weighted by saturation and importance", "arXiv:2505.11953",
               (WeightedTerm("saturation_importance"), WeightedTerm("nll", weight=0.1)),
               further={"settings.saturation_importance.beta1": Range(low=0.5, high=10.0, log=True),
                        "settings.saturation_importance.beta2": Range(low=0.1, high=4.0, log=True)}),
        Method("ce-u", "imitate the model's own distribution without the true token", "arXiv:2503.01224",
               (WeightedTerm("ce_u"),)),
        Method("pdu", "flatten forget logits, with the retain loss kept below a bound", "arXiv:2506.05314",
               (WeightedTerm("logit_flattening"),
                WeightedTerm("nll", weight=100.0, constraint=Constraint(bound=0.3, step=5.0, warmup=0.5)))),
        Method("me-gd", "maximum entropy on forget questions, descent on retain answers", "arXiv:2410.08109",
               (WeightedTerm("maximum_entropy", weight=0.1), _NLL)),
        Method("llmu", "ascent on forget answers, descent on random answers, divergence from the original on retain",
               "arXiv:2310.10683", (_GA, WeightedTerm("refusal", roles={"refusal": "random_answer"}), _KL)),
        Method("task-vector", "learn the forget answers, then subtract this change from the original's weights",
               "arXiv:2212.04089", (WeightedTerm("nll", roles={"retain": "forget"}),), Negate(),
               further={"rule.scale": Range(low=0.25, high=4.0, log=True)}),
        Method("whp", "learn the forget answers, then decode from the contrast with the original",
               "arXiv:2310.02238", (WeightedTerm("nll", roles={"retain": "forget"}),), Contrast(),
               further={"rule.strength": Range(low=0.25, high=4.0, log=True)}),
        Method("mini-unlearning", "take the forget data's part out of the last updates of a retraced training",
               "arXiv:2406.16986", (WeightedTerm("nll", roles={"retain": "forget"}), _NLL), MiniUnlearning(),
               further={"rule.strength": Range(low=0.25, high=4.0, log=True),
                        "rule.contraction": Range(low=0.5, high=0.99)}),
        Method("l1-sparse", "descent on retain answers while small weights are shrunk to zero", "arXiv:2304.04934",
               (_NLL,), L1(),
               further={"rule.strength": Range(low=0.1, high=10.0, log=True)}),
        Method("npo-sam", "npo-gd with the forget gradient at weights moved against forgetting", "arXiv:2502.05374",
               (WeightedTerm("npo"), _NLL), Sam(),
               further={**_NPO, "rule.rho": Around(factor=8.0)}),
        Method("npo-gru", "npo-gd without the part of the forget gradient that raises the retain loss",
               "arXiv:2503.09117", (WeightedTerm("npo"), _NLL), Gru(),
               further=_NPO),
        Method("npo-lat", "npo-gd against perturbations of hidden states on forget questions", "arXiv:2407.15549",
               (WeightedTerm("npo"), _NLL), Lat(),
               further={**_NPO, "rule.epsilon": Around(factor=8.0)}),
        Method("npo-undo", "npo-gd, then noise in the weights, and distillation on retain questions",
               "arXiv:2506.06278", (WeightedTerm("npo"), _NLL), Undo(),
               further={**_NPO, "rule.alpha": Range(low=0.02, high=0.5, log=True)}),
        Method("jensun", "refusals in place of forget answers, the original's predictions on retain questions, by "
               "bounded divergences", "arXiv:2509.02820",
               (WeightedTerm("jensen_shannon_refusal"), WeightedTerm("jensen_shannon"))),
        Method("prune-first", "set the smallest weights to zero, then gradient difference on the others",
               "arXiv:2304.04934", (_GA, _NLL), Prune(),
               further={"rule.share": Range(low=0.1, high=0.9)}),
    )
}  # fmt: skip

FINE_TUNING = Method("fine-tuning", "descent on the answers", "", (_NLL,))


def get_method(name: str) -> Method:
    """The method of that name. Raises ConfigError, naming the valid ones, if there is none."""
    if name not in METHODS:
        raise ConfigError(unknown_name("method", name, list(METHODS)))
    return METHODS[name]


def check_term(term: WeightedTerm) -> dict[str, Any]:
    """The term's complete settings. Raises ConfigError on an unknown term, role or setting."""
    declared = list(dict.fromkeys(role_of(need) for need in terms.get(term.term).facts["needs"]))
    for role, actual in term.roles.items():
        if role not in declared:
            raise ConfigError(unknown_name(f"role of the term {term.term!r}", role, declared))
        if actual not in ROLES:
            raise ConfigError(unknown_name("role", actual, list(ROLES)))
    return terms.check(term.term, term.settings)


def active_tricks(method: Method, values: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Trick -> its checked settings, without those at their neutral value.

    Raises:
        ConfigError: an unknown trick, or one that finds nothing in the method to act on.
    """
    active = {}
    for name, value in values.items():
        settings, facts = tricks.check(name, {"value": value}), tricks.get(name).facts
        if settings["value"] == facts["neutral"]:
            continue
        if not _finds_something(method, facts):
            what = f"{'logits of ' if facts['reads'] == 'logits' else ''}{facts['acts_on']}"
            raise ConfigError(
                f"the trick {name!r} acts on {what}, and no term of the method {method.name!r} reads any; leave it "
                "out, or add a term that does"
            )
        active[name] = settings
    return active


def _finds_something(method: Method, facts: Mapping[str, Any]) -> bool:
    """Whether there is something in a method for a trick to act on."""
    if facts["acts_on"] == "forgotten answers":
        return bool(method.forgotten_roles)
    needs = [(t, *need.partition(".")) for t in method.terms for need in terms.get(t.term).facts["needs"]]
    read = {what for t, role, _, what in needs if ROLES[t.roles.get(role, role)].tricked}
    return bool(read & {"", "logits"} if facts["reads"] == "logits" else read)
