"""The rules that a method may declare besides its loss: changes of weights or logits that are not gradient steps.

Declarations only: `uwc.training.weight_rules`, `uwc.training.unlearn` and `uwc.models.contrast` carry them out.
"""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from uwc.errors import ConfigError
from uwc.registry import Registry

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Rule:
    """The declarations of a rule.

    Attributes:
        name: of the kind, as users write it.
        formula: what it adds to the formula of a method.
        source: where it is defined.
        whole_weights: whether it acts on single weights, which excludes adapters and sharding.
        forgets_last: whether the model forgets only after the last step, which excludes early stopping.
    """

    name: str = field(init=False)
    formula: ClassVar[str]
    source: ClassVar[str]
    whole_weights: ClassVar[bool] = False
    forgets_last: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Prune(Rule):
    """Set weights to zero before training, and keep them there.

    Attributes:
        share: of the weights of the blocks' linear maps; embeddings, output embedding, norms and biases are kept.
        by: "magnitude" removes the smallest of the whole model; "wanda" the smallest |weight| x |input| of each output
            (arXiv:2306.11695).
    """

    name: str = field(init=False, default="prune")
    formula: ClassVar[str] = "on the weights that pruning keeps"
    source: ClassVar[str] = "arXiv:2304.04934"
    whole_weights: ClassVar[bool] = True

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    by: Literal["magnitude", "wanda"] = "magnitude"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class L1(Rule):
    """Shrink the weights of the blocks' linear maps towards zero after each step; weights at zero stay there.

    Attributes:
        strength: g; a step moves them by lr x g, and g falls linearly to 0 over the run.
    """

    name: str = field(init=False, default="l1")
    formula: ClassVar[str] = "after each step w <- sign(w) max(|w| - lr g, 0)"
    source: ClassVar[str] = "arXiv:2304.04934"
    whole_weights: ClassVar[bool] = True

    strength: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Negate(Rule):
    """Replace the weights after training by the original's minus the task vector, the change by training.

    Attributes:
        scale: a, the factor of the task vector.
    """

    name: str = field(init=False, default="negate")
    formula: ClassVar[str] = "then w_original - a (w - w_original)"
    source: ClassVar[str] = "arXiv:2212.04089"
    forgets_last: ClassVar[bool] = True

    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Contrast(Rule):
    """Generate from the contrast of the original's logits with the trained model's; the result is a pair of models.

    Attributes:
        strength: a, the factor of the difference.
    """

    name: str = field(init=False, default="contrast")
    formula: ClassVar[str] = "decoded with z_original - a relu(z - z_original)"
    source: ClassVar[str] = "arXiv:2310.02238"
    forgets_last: ClassVar[bool] = True

    strength: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MiniUnlearning(Rule):
    """Retrace training by plain gradient descent, and take the forget data's part out of the last updates.

    The run's steps are the retraced ones; of the training settings it reads `epochs`, `batch_size`,
    `micro_batch_size`, `lr` and `seed`.

    Attributes:
        contraction: c, the factor by which an update shrinks the difference between two trainings.
        strength: the factor with which the difference is applied.
    """

    name: str = field(init=False, default="mini-unlearning")
    formula: ClassVar[str] = "then w + d, where at each step d <- c d + (lr/2) grad L_forget"
    source: ClassVar[str] = "arXiv:2406.16986"
    whole_weights: ClassVar[bool] = True
    forgets_last: ClassVar[bool] = True

    contraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    strength: Annotated[float, Field(gt=0)] = 1.0


rules: Registry[Any] = Registry("rule", declares=("formula",))
"""Kind of rule -> its class, whose keyword-only parameters are the settings."""

for _kind in (Prune, L1, Negate, Contrast, MiniUnlearning):
    rules.register(_kind.name, source=_kind.source, formula=_kind.formula)(_kind)


def changed_rule(rule: Rule | None, given: Mapping[str, Any], *, where: str) -> Rule | None:
    """A rule with other settings, or the rule that ``given["name"]`` names in its place.

    Args:
        rule: what the method declares.
        given: setting -> value; `name` may be left out where a rule is declared.
        where: what messages name.

    Raises:
        ConfigError: an unknown rule or setting, or a value that is not valid.
    """
    if not given:
        return rule
    own = {} if rule is None else asdict(rule)
    name = str(given.get("name", own.get("name", "")))
    if not name:
        raise ConfigError(f"{where} has no rule; give the 'name' of one; valid: {', '.join(rules.names())}")
    settings = {**(own if own.get("name") == name else {}), **given}
    checked = rules.check(name, {key: value for key, value in settings.items() if key != "name"})
    changed: Rule = rules.get(name).function(**checked)
    return changed
