"""Unlearning With Control: has a language model really forgotten, and which unlearning method is better?

The names below are the public API; each is imported when it is first used, so that ``import uwc`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from uwc.data.example import Example as Example
    from uwc.data.prompts import PromptTemplate as PromptTemplate
    from uwc.data.question_files import read_examples as read_examples
    from uwc.errors import UserError as UserError
    from uwc.models.loading import load_target as load_target
    from uwc.models.target import Target as Target
    from uwc.studies.config_file import load_config as load_config
    from uwc.workflows.attacking import attack as attack
    from uwc.workflows.calibration import calibrate as calibrate
    from uwc.workflows.comparison import compare as compare
    from uwc.workflows.replaying import replay as replay
    from uwc.workflows.scoring import score as score
    from uwc.workflows.studies import plan_study as plan_study
    from uwc.workflows.studies import run_study as run_study
    from uwc.workflows.unlearning import unlearn as unlearn

_HOMES = {
    "Example": "uwc.data.example",
    "read_examples": "uwc.data.question_files",
    "PromptTemplate": "uwc.data.prompts",
    "UserError": "uwc.errors",
    "load_target": "uwc.models.loading",
    "Target": "uwc.models.target",
    "load_config": "uwc.studies.config_file",
    "attack": "uwc.workflows.attacking",
    "calibrate": "uwc.workflows.calibration",
    "compare": "uwc.workflows.comparison",
    "plan_study": "uwc.workflows.studies",
    "replay": "uwc.workflows.replaying",
    "run_study": "uwc.workflows.studies",
    "score": "uwc.workflows.scoring",
    "unlearn": "uwc.workflows.unlearning",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'uwc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
