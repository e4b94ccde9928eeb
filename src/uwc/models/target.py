"""A model under test: what is scored, trained, attacked and mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate

FALLBACK_CONTEXT = 2048


@dataclass(frozen=True)
class Target:
    """A causal language model with the tokenizer and prompt template it is used with.

    Attributes:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        template: how a question is put to it.
        name: what messages and reports call it.
    """

    model: Any
    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)
    name: str = "model"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """The longest sequence the model takes, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or FALLBACK_CONTEXT)

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """The examples as this model reads them. Raises DataError if one does not fit into its context."""
        return self.template.encode(examples, self.tokenizer, max_length=self.context_length)
