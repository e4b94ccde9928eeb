"""The rules that a method may declare besides its loss: changes of weights, gradients, hidden states or logits.

Declarations only: `uwc.training.weight_rules`, `uwc.training.gradient_rules`, `uwc.training.unlearn` and
`uwc.models.contrast` carry them out.
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
        gradients: whether it reads or changes the gradients of a step, which excludes sharding and fp16.
        sides: those of which the method must have a term, "forget" or "retain"; see `uwc.objectives.registry.terms`.
    """

    name: str = field(init=False)
    formula: ClassVar[str]
    source: ClassVar[str]
    whole_weights: ClassVar[bool] = False
    forgets_last: ClassVar[bool] = False
    gradients: ClassVar[bool] = False
    sides: ClassVar[tuple[str, ...]] = ()


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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sam(Rule):
    """Take the gradient of the forget terms at weights that are moved against forgetting (sharpness-aware).

    With g the gradient of the forget terms at the weights w, their gradient for the step is that at
    ``w + rho g / |g|``, where the forget loss is larger; the retain terms have theirs at w.

    Attributes:
        rho: the 2-norm of the move, over all weights that are trained.
    """

    name: str = field(init=False, default="sam")
    formula: ClassVar[str] = "forget terms at w + rho g / |g|, g = grad L_forget(w)"
    source: ClassVar[str] = "arXiv:2502.05374"
    gradients: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("forget",)

    rho: Annotated[float, Field(gt=0)] = 0.01


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Gru(Rule):
    """Remove from the forget terms' gradient what would raise the retain loss (gradient rectified unlearning).

    With g_f and g_r the gradients of the forget and the retain terms, ``m <- s m + (1 - s) g_r`` at each step, and
    ``g_f <- g_f - min(0, <g_f, m>) m / <m, m>``, the closest vector to g_f that has no negative product with m.

    Attributes:
        smoothing: s, the weight of earlier steps in the average m, which begins at 0.
        descend: whether the retain terms are minimised too; without, they only constrain the forget terms.
    """

    name: str = field(init=False, default="gru")
    formula: ClassVar[str] = "g_forget - min(0, <g_forget, m>) m / <m, m>, m the average of g_retain"
    source: ClassVar[str] = "arXiv:2503.09117"
    gradients: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("forget", "retain")

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2
    descend: bool = True


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Lat(Rule):
    """Train the forget terms against perturbations of hidden states that raise their loss: latent adversarial training.

    A perturbation d_t is added to the output of a block at each position, from 0 on:
    ``d_t <- P(d_t + step_size g_t / |g_t|)``, g_t the gradient of the forget terms with respect to d_t, and P the
    projection onto the ball ``|d_t| <= epsilon`` (2-norms).

    Attributes:
        layer: the block, 1..L, negative from the last; None is a third of the depth.
        epsilon: radius of the ball.
        steps: number of inner steps.
        step_size: their length.
        on: "prompt" perturbs the positions of the prompt; "all" those of the answer too, for passages without a prompt.
    """

    name: str = field(init=False, default="lat")
    formula: ClassVar[str] = "forget terms at h + d, d = argmax L_forget over |d_t| <= epsilon"
    source: ClassVar[str] = "arXiv:2407.15549"
    gradients: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("forget",)

    layer: int | None = None
    epsilon: Annotated[float, Field(gt=0)] = 1.0
    steps: Annotated[int, Field(ge=1)] = 6
    step_size: Annotated[float, Field(gt=0)] = 0.25
    on: Literal["prompt", "all"] = "prompt"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Undo(Rule):
    """After training, mix noise into the weights, and distil the unlearned model into the result on retain examples.

    ``w <- (1 - alpha) w + alpha beta n``, n drawn by Xavier's uniform initialisation for matrices and 0 for vectors;
    then ``KL(p_unlearned || p)`` at every token of the retain examples is minimised, prompts included.

    Attributes:
        alpha: share of noise.
        beta: factor of the noise.
        epochs: passes of the distillation over the retain examples.
        lr: its peak learning rate; None is that of the run, as are all its other training settings.
    """

    name: str = field(init=False, default="undo")
    formula: ClassVar[str] = "then w <- (1 - alpha) w + alpha beta noise, and KL(unlearned || p) on retain"
    source: ClassVar[str] = "arXiv:2506.06278"
    whole_weights: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25
    beta: Annotated[float, Field(ge=0)] = 0.1
    epochs: Annotated[float, Field(gt=0)] = 5.0
    lr: Annotated[float, Field(gt=0)] | None = None


rules: Registry[Any] = Registry("rule", declares=("formula",))
"""Kind of rule -> its class, whose keyword-only parameters are the settings."""

for _kind in (Prune, L1, Negate, Contrast, MiniUnlearning, Sam, Gru, Lat, Undo):
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
