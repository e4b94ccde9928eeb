"""Where a model is trained: in one process, as a copy in each of several, or cut over them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from uwc.errors import TrainingDiverged
from uwc.models.model import Target
from uwc.training.settings import TrainingSettings
from uwc.training.sharding import check_sharding, fsdp_plugin, gather_weights, is_sharded, shard, sharding_asked


class Placement:
    """A target's model in training, wrapped as the launcher asked for.

    With sharding the model that is trained is a cut copy, made by `start`; the target's own model keeps whole weights
    in host memory and gets the trained ones whenever it is asked for by `whole`.

    Args:
        target: the model to train.
        settings: the run's.

    Raises:
        ConfigError: a setting and sharding do not go together.
    """

    def __init__(self, target: Target, settings: TrainingSettings) -> None:
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        self.accelerator = Accelerator(mixed_precision=settings.precision, cpu=target.device.type == "cpu")
        self.target, self._settings = target, settings
        self._sharding = sharding_asked() and self.accelerator.num_processes > 1
        if settings.gradient_checkpointing:
            target.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self._sharding:
            check_sharding(settings, fsdp_plugin(self.accelerator, settings))
            self.model: Any = target.model.to(self.accelerator.device)
        else:
            self.model = self.accelerator.prepare_model(target.model)
            if self.model is not target.model:
                # buffers stay as they are, and processes may cut a step into different numbers of forwards
                self.model.broadcast_buffers = False

    def start(self, *, frozen: Any = None) -> None:
        """Cut the model over the processes, and the frozen one beside it, once nothing needs the whole weights."""
        if self._sharding:  # from host memory, so that a device holds its own part alone
            self.model = shard(copy.deepcopy(self.target.model.to("cpu")), self.accelerator)
            if frozen is not None:
                shard(frozen.to("cpu"), self.accelerator)

    @contextmanager
    def whole(self) -> Iterator[Target]:
        """The target with the weights as they are now, on the device; every process must ask at the same step."""
        if not is_sharded(self.model):
            yield self.target
            return
        gather_weights(self.model, into=self.target.model)
        self.target.model.to(self.accelerator.device)
        yield self.target
        self.target.model.to("cpu")

    def end(self, *, gather: bool) -> None:
        """Leave the target's model as a plain one in eval mode, with the trained weights if all processes are here."""
        model = self.target.model
        if is_sharded(self.model):
            if gather:
                gather_weights(self.model, into=model)
            self.model = None
            model.to(self.accelerator.device)
        else:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self._settings.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()


@contextmanager
def placed(target: Target, settings: TrainingSettings) -> Iterator[Placement]:
    """A `Placement` for the time of a run; afterwards the model is as it was, with trained weights.

    Raises what the run raises; only after an error that all processes meet are sharded weights gathered.
    """
    placement = Placement(target, settings)
    together = False
    try:
        yield placement
        together = True
    except TrainingDiverged:
        together = True
        raise
    finally:
        placement.end(gather=together)
