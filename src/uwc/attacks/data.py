"""The attacker's data, disjoint from the scored examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from uwc.data.example import Example, require_disjoint
from uwc.data.question_files import Questions
from uwc.errors import DataError
from uwc.io import IF_GIVEN


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """The attacker's data, none of which is scored.

    Attributes:
        train: the attacker's examples of the forget set.
        retain: the attacker's examples of the retain set.
        unrelated: the attacker's examples unrelated to both.
        translations: id of a scored example -> its question in another language.
        questions: form (aliases, multi-hop, ...) -> id of a scored example -> its question in this form.
        original: the original model's training data, including the scored answers, for the attack that uses it; by
            default all of the above.
    """

    train: Questions = ()
    retain: Questions = ()
    unrelated: Questions = ()
    translations: Mapping[str, str] = field(default_factory=dict)
    original: Questions = ()
    questions: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata=IF_GIVEN)


@dataclass(frozen=True)
class AttackData(Attacker):
    """The scored examples, and the attacker's.

    Attributes:
        scored: the examples that are scored under attack.
        forget: the whole forget set, including scored examples, for the attack that relearns it.

    Raises:
        DataError: there is no scored example, or the attacker has one: its id, its question with its answer, or the
            same answer of the same subject.
    """

    scored: Sequence[Example]
    train: Sequence[Example] = field(default=(), kw_only=True)
    retain: Sequence[Example] = field(default=(), kw_only=True)
    unrelated: Sequence[Example] = field(default=(), kw_only=True)
    original: Sequence[Example] = field(default=(), kw_only=True)
    forget: Sequence[Example] = field(default=(), kw_only=True, metadata=IF_GIVEN)

    @property
    def owned(self) -> dict[str, int]:
        """Part of the attacker's data -> number of examples."""
        return {name: len(getattr(self, name)) for name in ("train", "retain", "unrelated")}

    def __post_init__(self) -> None:
        if not self.scored:
            raise DataError("there is no example to score under attack; give at least one")
        for name in ("train", "retain", "unrelated"):
            theirs = getattr(self, name)
            require_disjoint(theirs, self.scored, names=(f"attacker's {name}", "scored"))
            _require_no_shared_fact(theirs, self.scored, name)


def split_by_subject(
    examples: Sequence[Example], share: float, *, seed: int = 0, owner: str = "the attacker"
) -> tuple[list[Example], list[Example]]:
    """Split a set into the attacker's share and the scored rest; a subject is never divided.

    Args:
        examples: the set.
        share: the attacker's share of the subjects, in 0..1; at least one subject on each side.
        seed: of the choice.
        owner: who has the share, in messages.

    Raises:
        DataError: the share is outside 0..1, or there are fewer than two subjects.
    """
    subjects = list(dict.fromkeys(e.subject or e.id for e in examples))
    if not 0 < share < 1 or len(subjects) < 2:
        raise DataError(
            f"cannot give {owner} a share of {share} of {len(subjects)} subjects: the share must lie between "
            "0 and 1, and at least two subjects are needed (examples without one count as their own)"
        )
    count = min(max(round(share * len(subjects)), 1), len(subjects) - 1)
    chosen = {subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))[:count]}
    owned = [e for e in examples if (e.subject or e.id) in chosen]
    return owned, [e for e in examples if (e.subject or e.id) not in chosen]


def _require_no_shared_fact(theirs: Sequence[Example], scored: Sequence[Example], name: str) -> None:
    facts = {(e.subject, e.answer) for e in theirs if e.subject}
    for example in scored:
        if (example.subject, example.answer) in facts:
            raise DataError(
                f"the attacker's {name} set holds the answer of the scored example {example.id!r} in another phrasing "
                f"({example.answer[:60]!r}, about {example.subject!r}); remove it from one"
            )
