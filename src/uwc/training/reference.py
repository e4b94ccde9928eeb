"""The frozen original model that some terms compare with."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch, collate
from uwc.data.prompts import EncodedExample
from uwc.models.lora import adapter_off, has_adapter
from uwc.models.model import Model
from uwc.objectives.forwards import Pass
from uwc.objectives.objective import Objective
from uwc.training.data import Key
from uwc.training.forward import run_model
from uwc.training.settings import TrainingSettings

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

TOKEN_BUDGET = 1024
"""Padded tokens in a batch of the original's; small, so that its logits do not decide the run's peak memory."""


def needs_frozen_copy(objective: Objective, settings: TrainingSettings) -> bool:
    """Whether a second copy of the weights must be held while training.

    It is for terms that read the original's logits or states at every step, and for its log-probabilities of answers
    that are sampled again on the way; with an adapter the original is the model without it.
    """
    sampled_again = settings.samples.every is not None and "sampled.reference_logprobs" in objective.needs
    return settings.lora is None and (objective.needs_reference_model or sampled_again)


def frozen_copy(model: Any, settings: TrainingSettings) -> Any:
    """The model itself, made ready to be a reference: frozen, in eval mode, its weights in the precision of training.

    Buffers keep theirs: positions rounded to 16 bits would turn far tokens by whole radians.
    """
    dtype = COMPUTE_DTYPES.get(settings.precision)
    for parameter in model.parameters():
        if dtype is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model.requires_grad_(False).eval()


class Reference:
    """What the terms need of the model as it was before training.

    Log-probabilities of fixed answers are computed once and kept; a frozen copy of the weights is kept only if a term
    needs its logits or states at every step, and with an adapter no copy at all: the original is the model without it.

    Args:
        model: the model before training.
        objective: says what is needed.
        settings: the run's.
        frozen: a `frozen_copy` of the original to use instead of making one, so that several runs may share it.
        autocast: makes the context in which the trained model's forwards run too.

    Attributes:
        copy: the frozen copy, where one is held.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        settings: TrainingSettings,
        *,
        frozen: Any = None,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model, self._objective, self._autocast = model, objective, autocast
        self._logprobs: dict[tuple[str, Key], Tensor] = {}
        self.copy: Any = None
        if needs_frozen_copy(objective, settings) and not has_adapter(model.model):
            self.copy = frozen or frozen_copy(copy.deepcopy(model.model), settings)

    @torch.no_grad()
    def remember(self, role: str, examples: Mapping[Key, EncodedExample]) -> None:
        """Compute the log-probabilities of a role's examples, at the temperature of training, where a term needs them.

        Without a frozen copy, must be called while the weights of the model are still the original's.
        """
        if f"{role}.reference_logprobs" not in self._objective.needs:
            return
        keys = list(examples)
        groups = self._model.groups([examples[k] for k in keys], token_budget=TOKEN_BUDGET)
        with self._frozen() as model:
            for group in groups:
                scope = self._objective.scope(role)
                batch = collate([examples[keys[i]] for i in group], device=model.device, scope=scope)
                with self._autocast():
                    logits, _ = run_model(model, batch, layers=(), logits=True)
                logprobs = self._objective.apply_tricks(role, Pass(batch, logits)).logprobs
                sizes = torch.bincount(batch.rows, minlength=batch.size).tolist()
                for index, values in zip(group, torch.split(logprobs, sizes), strict=True):
                    self._logprobs[role, keys[index]] = values

    @torch.no_grad()
    def values(self, role: str, keys: Sequence[Key], batch: Batch) -> dict[str, Tensor | Mapping[int, Tensor]]:
        """The reference values of a micro-batch, by the names that terms declare.

        Args:
            role: the batch's role.
            keys: its examples' keys.
            batch: the micro-batch.
        """
        values: dict[str, Tensor | Mapping[int, Tensor]] = {}
        if f"{role}.reference_logprobs" in self._objective.needs:
            values[f"{role}.reference_logprobs"] = torch.cat([self._logprobs[role, key] for key in keys])
        wanted = {f"{role}.reference_logits", f"{role}.reference_states"} & self._objective.needs
        if wanted:
            needs_logits = f"{role}.reference_logits" in wanted
            with self._frozen() as model, self._autocast():
                logits, states = run_model(model, batch, layers=self._objective.layers(role), logits=needs_logits)
            if logits is not None:
                values[f"{role}.reference_logits"] = self._objective.apply_tricks(role, Pass(batch, logits)).logits
            values[f"{role}.reference_states"] = states
        return {name: value for name, value in values.items() if name in self._objective.needs}

    @contextmanager
    def _frozen(self) -> Iterator[Any]:
        """The original model: the frozen copy, the model with its adapter off, or the model itself before training."""
        if self.copy is not None:
            yield self.copy
        else:
            with adapter_off(self._model.model) as model:
                training = model.training
                model.eval()
                yield model
                model.train(training)
