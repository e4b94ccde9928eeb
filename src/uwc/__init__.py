"""Unlearning With Control: has a language model really forgotten, and which unlearning method is better?

The names below are the public API; each is imported when it is first used, so that ``import uwc`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from uwc.api import Retention as Retention
    from uwc.api import attack as attack
    from uwc.api import audit_against as audit_against
    from uwc.api import audit_leaks as audit_leaks
    from uwc.api import calibrate as calibrate
    from uwc.api import diff as diff
    from uwc.api import load_model as load_model
    from uwc.api import run_study as run_study
    from uwc.api import score as score
    from uwc.api import strongest_attack as strongest_attack
    from uwc.api import unlearn as unlearn
    from uwc.attacks.data import Attacker as Attacker
    from uwc.attacks.registry import attack_method as attack_method
    from uwc.data.example import Example as Example
    from uwc.data.outputs import Outputs as Outputs
    from uwc.data.prompts import PromptTemplate as PromptTemplate
    from uwc.data.question_files import load_questions as load_questions
    from uwc.errors import UserError as UserError
    from uwc.metrics.registry import metric as metric
    from uwc.models.endpoint import Endpoint as Endpoint
    from uwc.models.model import Model as Model
    from uwc.objectives.registry import loss as loss
    from uwc.plugins import load_plugins as load_plugins
    from uwc.reports.export import export as export
    from uwc.results import AttackResults as AttackResults
    from uwc.results import AuditResults as AuditResults
    from uwc.results import CalibrationResults as CalibrationResults
    from uwc.results import CheckResults as CheckResults
    from uwc.results import DataSummary as DataSummary
    from uwc.results import JudgeResults as JudgeResults
    from uwc.results import Scores as Scores
    from uwc.results import StrongestResults as StrongestResults
    from uwc.results import StudyResults as StudyResults
    from uwc.results import UnlearnResult as UnlearnResult
    from uwc.studies.config_file import load_config as load_config
    from uwc.training.settings import TrainingSettings as TrainingSettings
    from uwc.workflows.checking import check as check
    from uwc.workflows.comparison import compare as compare
    from uwc.workflows.doctor import doctor as doctor
    from uwc.workflows.judging import check_judge as check_judge
    from uwc.workflows.pushing import push as push
    from uwc.workflows.questions import describe_questions as describe_questions
    from uwc.workflows.replaying import replay as replay
    from uwc.workflows.studies import estimate_study as estimate_study
    from uwc.workflows.studies import plan_study as plan_study


_HOMES = {
    "Model": ("uwc.models.model", "Model"),
    "Endpoint": ("uwc.models.endpoint", "Endpoint"),
    "Example": ("uwc.data.example", "Example"),
    "Outputs": ("uwc.data.outputs", "Outputs"),
    "PromptTemplate": ("uwc.data.prompts", "PromptTemplate"),
    "UserError": ("uwc.errors", "UserError"),
    "Retention": ("uwc.api", "Retention"),
    "Attacker": ("uwc.attacks.data", "Attacker"),
    "TrainingSettings": ("uwc.training.settings", "TrainingSettings"),
    "Scores": ("uwc.results", "Scores"),
    "CalibrationResults": ("uwc.results", "CalibrationResults"),
    "AttackResults": ("uwc.results", "AttackResults"),
    "AuditResults": ("uwc.results", "AuditResults"),
    "CheckResults": ("uwc.results", "CheckResults"),
    "DataSummary": ("uwc.results", "DataSummary"),
    "JudgeResults": ("uwc.results", "JudgeResults"),
    "UnlearnResult": ("uwc.results", "UnlearnResult"),
    "StrongestResults": ("uwc.results", "StrongestResults"),
    "StudyResults": ("uwc.results", "StudyResults"),
    "load_model": ("uwc.api", "load_model"),
    "load_questions": ("uwc.data.question_files", "load_questions"),
    "describe_questions": ("uwc.workflows.questions", "describe_questions"),
    "score": ("uwc.api", "score"),
    "calibrate": ("uwc.api", "calibrate"),
    "compare": ("uwc.workflows.comparison", "compare"),
    "check": ("uwc.workflows.checking", "check"),
    "check_judge": ("uwc.workflows.judging", "check_judge"),
    "attack": ("uwc.api", "attack"),
    "strongest_attack": ("uwc.api", "strongest_attack"),
    "audit_against": ("uwc.api", "audit_against"),
    "audit_leaks": ("uwc.api", "audit_leaks"),
    "unlearn": ("uwc.api", "unlearn"),
    "run_study": ("uwc.api", "run_study"),
    "plan_study": ("uwc.workflows.studies", "plan_study"),
    "estimate_study": ("uwc.workflows.studies", "estimate_study"),
    "load_config": ("uwc.studies.config_file", "load_config"),
    "push": ("uwc.workflows.pushing", "push"),
    "doctor": ("uwc.workflows.doctor", "doctor"),
    "replay": ("uwc.workflows.replaying", "replay"),
    "diff": ("uwc.api", "diff"),
    "export": ("uwc.reports.export", "export"),
    "metric": ("uwc.metrics.registry", "metric"),
    "loss": ("uwc.objectives.registry", "loss"),
    "attack_method": ("uwc.attacks.registry", "attack_method"),
    "load_plugins": ("uwc.plugins", "load_plugins"),
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'uwc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
