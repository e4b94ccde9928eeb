"""The roles of examples in a training step: whose questions are asked, and where their answers come from."""

from dataclasses import dataclass
from typing import Literal

AnswerPool = Literal["own", "refusals", "retain_answers", "alternatives", "samples"]


@dataclass(frozen=True)
class Role:
    """One kind of example that a term may read.

    Attributes:
        name: what terms call it.
        questions: the set whose questions are asked.
        answers: where the answers come from. "own": the examples' true answers; "refusals": a refusal line drawn at
            random, the same for a forget question and its retain partner; "retain_answers": a random retain example's;
            "alternatives": one of the example's own wrong answers; "samples": answers drawn from the model itself.
    """

    name: str
    questions: Literal["forget", "retain"]
    answers: AnswerPool

    @property
    def tricked(self) -> bool:
        """Whether the tricks apply: they belong to the forget loss."""
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
