"""Decoding-time contrast of a model with a reinforced copy (arXiv:2310.02238)."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from uwc.errors import ModelError
from uwc.models.head import head_sees
from uwc.models.model import Model

FILE = "contrast.json"
PARTS = ("base", "reinforced")


class ContrastModel(nn.Module):
    """Two models with joint logits ``z = z_base - strength relu(z_reinforced - z_base)``.

    Scored and generated from like any causal language model: its output embedding is a module that receives positions
    and runs the forward passes of both models there.

    Args:
        base: the model to change.
        reinforced: the same model, trained further on the forget set.
        strength: factor of the difference; 0 is the base.
    """

    def __init__(self, base: Any, reinforced: Any, *, strength: float) -> None:
        super().__init__()
        self.head = _ContrastHead(base, reinforced, strength)
        self.config, self.strength = base.config, strength

    @property
    def device(self) -> torch.device:
        """The device of the base's weights."""
        device: torch.device = self.head.base.device
        return device

    @property
    def generation_config(self) -> Any:
        """The base's generation configuration, with the tokens that end its turn."""
        return self.head.base.generation_config

    def get_output_embeddings(self) -> nn.Module:
        """The module whose output are the logits."""
        return self.head

    def get_input_embeddings(self) -> nn.Module:
        """The base's map from tokens to embeddings."""
        return self.head.base.get_input_embeddings()  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_options: Any) -> Any:
        """Logits [B, T, V], or [1, N, V] where a hook on the output embedding selects N positions."""
        places = torch.arange(input_ids.numel(), device=input_ids.device).view(*input_ids.shape, 1)
        self.head.inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        return SimpleNamespace(logits=self.head(places))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: Any,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
    ) -> Tensor:
        """[B, T + new] greedy continuations; finished sequences are padded. Raises ValueError for sampling."""
        if generation_config.do_sample:
            raise ValueError("a contrast of two models generates greedily only")
        ends = torch.tensor(generation_config.eos_token_id or [], dtype=torch.long, device=input_ids.device)
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for _ in range(generation_config.max_new_tokens):
            logits = self(input_ids, attention_mask).logits[:, -1]
            for processor in logits_processor:
                logits = processor(input_ids, logits)
            following = logits.argmax(dim=-1).masked_fill(done, generation_config.pad_token_id)
            input_ids = torch.cat([input_ids, following[:, None]], dim=1)
            attention_mask = torch.cat([attention_mask, torch.ones_like(following)[:, None]], dim=1)
            done |= torch.isin(following, ends)
            for criterion in stopping_criteria:
                done |= criterion(input_ids, logits)
            if bool(done.all()):
                break
        return input_ids

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both models and the strength, as `load_contrast` reads them."""
        for name, model in (("base", self.head.base), ("reinforced", self.head.reinforced)):
            model.save_pretrained(Path(folder) / name)
        (Path(folder) / FILE).write_text(json.dumps({"strength": self.strength}), encoding="utf-8")


class _ContrastHead(nn.Module):
    """Maps positions in the flattened batch, [B, T, 1] or [1, N, 1], to the contrasted logits there."""

    def __init__(self, base: Any, reinforced: Any, strength: float) -> None:
        super().__init__()
        self.base, self.reinforced, self.strength = base, reinforced, strength
        self.inputs: dict[str, Any] = {}

    def forward(self, places: Tensor) -> Tensor:
        base, reinforced = (self._logits(model, places) for model in (self.base, self.reinforced))
        return base - self.strength * torch.relu(reinforced - base)

    def _logits(self, model: Any, places: Tensor) -> Tensor:
        with head_sees(model, lambda states: states.flatten(0, 1)[places.flatten()]):
            logits: Tensor = model(**self.inputs).logits
        return logits.view(*places.shape[:2], -1)


def contrast(base: Model, reinforced: Model, *, strength: float = 1.0) -> Model:
    """The contrast of a base with a reinforced model; see `ContrastModel`.

    Args:
        base: the model to change; its weights are shared, not copied.
        reinforced: the same model trained further on the forget set.
        strength: alpha in ``z_base - alpha relu(z_reinforced - z_base)``.
    """
    return replace(base, model=ContrastModel(base.model, reinforced.model, strength=strength).eval())


def load_contrast(folder: Path, load: Any) -> ContrastModel:
    """Read what `ContrastModel.save_pretrained` wrote; `load` reads one model from a folder."""
    try:
        strength = float(json.loads((folder / FILE).read_text(encoding="utf-8"))["strength"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ModelError(f"{folder / FILE}: damaged ({error!r}); fetch or save it again") from error
    return ContrastModel(load(str(folder / "base")), load(str(folder / "reinforced")), strength=strength)
