"""The roles of examples in a training step: the source of their questions and of their answers."""

from dataclasses import dataclass
from typing import Literal

AnswerPool = Literal["own", "refusals", "retain_answers", "alternatives", "samples"]


@dataclass(frozen=True)
class Role:
    """A kind of example that a term may read.

    Attributes:
        name: its name in needs of terms.
        questions: the set of its questions.
        answers: the source of its answers. "own": the examples' true answers; "refusals": a random refusal, the same
            for a forget question and its retain partner; "retain_answers": a random retain example's; "alternatives":
            one of the example's wrong answers; "samples": answers sampled from the model itself.
    """

    name: str
    questions: Literal["forget", "retain"]
    answers: AnswerPool

    @property
    def tricked(self) -> bool:
        """Whether tricks apply, which they do in the forget loss only."""
        return self.questions == "forget"


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("forget", "forget", "own"),
        Role("refusal", "forget", "refusals"),
        Role("alternative", "forget", "alternatives"),
        Role("random_answer", "forget", "retain_answers"),
        Role("sampled", "forget", "samples"),
        Role("retain", "retain", "own"),
        Role("retain_refusal", "retain", "refusals"),
    )
}


def role_of(need: str) -> str:
    """The role in a declared need: ``"forget"`` of ``"forget.reference_logprobs"``."""
    return need.partition(".")[0]
