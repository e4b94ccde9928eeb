"""The settings of ``--set`` in commands for one model: sections of a study, and keys of single commands."""

from pathlib import Path
from typing import Any

from pydantic import Field

from uwc.attacks.registry import Texts
from uwc.metrics.one_sided import AuditSettings
from uwc.models.model import DeviceName
from uwc.objectives.methods import Method
from uwc.studies.config import JudgesConfig, LoadingConfig, RunConfig, ScoreConfig, StopConfig
from uwc.studies.sections import CalibrateConfig, HarnessConfig, Section


class OwnLoading(LoadingConfig):
    """Options of loading models, and the prompt.

    Attributes:
        own_tokenizer: read each model with its own tokenizer, chat template and ends instead of the original's.
    """

    own_tokenizer: bool = False


class FileSettings(Section):
    """Files besides those of the options.

    Attributes:
        further: name -> file of a further set: real_authors, world_facts, verbatim or another.
        columns: column by ``field`` or ``file:field``.
        skip_invalid: leave out invalid rows, at most half of a file.
        refusals: a text file with a refusal on each line.
    """

    further: dict[str, Path] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    skip_invalid: bool = False
    refusals: Path | None = None


class FileConfig(Section):
    """The settings of the benchmark of local files."""

    settings: FileSettings = FileSettings()


class OwnScore(ScoreConfig):
    """The metrics and their settings.

    Attributes:
        settings: metric -> its settings that differ from the defaults.
        compat: open-unlearning or uwc-official: that code's definitions and prompt.
        shots: a file of solved questions that precede each question.
    """

    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    compat: str | None = None
    shots: Path | None = None


class OwnAttack(Section):
    """Attacks on one model.

    Attributes:
        settings: attack -> setting -> value.
        texts: the texts under attack that are kept, see `AttackConfig`.
    """

    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    texts: Texts = True


class EndpointSections(Section):
    """The settings of an endpoint, and of the attacks on it.

    Attributes:
        endpoint: the fields of `uwc.Endpoint` except url and model.
        attack: the attacks' settings.
    """

    endpoint: dict[str, Any] = Field(default_factory=dict)
    attack: OwnAttack = OwnAttack()
    score: ScoreConfig = ScoreConfig()


class DataSections(Section):
    """The settings of `uwc data`."""

    model: LoadingConfig = LoadingConfig()


class ScoreSections(EndpointSections):
    """The settings of `uwc score`."""

    model: OwnLoading = OwnLoading()
    benchmark: FileConfig = FileConfig()
    score: OwnScore = OwnScore()
    harness: HarnessConfig = HarnessConfig()
    seed: int = Field(0, ge=0)


class JudgeScore(Section):
    """The judges, and the settings of the metric.

    Attributes:
        judges: the judges of generated answers.
        settings: metric -> its settings that differ from the defaults.
    """

    judges: JudgesConfig = JudgesConfig()
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)


class JudgeLoading(Section):
    """Where the judge computes."""

    device: DeviceName = "auto"


class JudgeSections(Section):
    """The settings of `uwc judge`."""

    score: JudgeScore = JudgeScore()
    model: JudgeLoading = JudgeLoading()
    seed: int = Field(0, ge=0)


class CalibrateSections(Section):
    """The settings of `uwc calibrate`."""

    model: LoadingConfig = LoadingConfig()
    benchmark: FileConfig = FileConfig()
    score: ScoreConfig = ScoreConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    harness: HarnessConfig = HarnessConfig()
    seed: int = Field(0, ge=0)


class AttackSections(Section):
    """The settings of `uwc attack`."""

    model: OwnLoading = OwnLoading()
    benchmark: FileConfig = FileConfig()
    score: ScoreConfig = ScoreConfig()
    attack: OwnAttack = OwnAttack()
    seed: int = Field(0, ge=0)


class AuditSections(EndpointSections):
    """The settings of `uwc audit`.

    Attributes:
        audit: how questions are chosen under a budget.
    """

    audit: AuditSettings = AuditSettings()

    model: OwnLoading = OwnLoading()
    benchmark: FileConfig = FileConfig()
    seed: int = Field(0, ge=0)


class UnlearnSections(Section):
    """The settings of `uwc unlearn`: the model, the questions, and the keys of a run in a study."""

    model: LoadingConfig = LoadingConfig()
    benchmark: FileConfig = FileConfig()
    weights: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    roles: dict[str, dict[str, str]] = Field(default_factory=dict)
    rule: dict[str, Any] = Field(default_factory=dict)
    tricks: dict[str, float] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    stop: StopConfig | None = None

    def method(self, name: str) -> Method:
        """The method with these weights, settings and roles of its terms, and this rule.

        Raises:
            ConfigError: an unknown method, or a change that it does not take.
        """
        changes = {"weights": self.weights, "settings": self.settings, "roles": self.roles, "rule": self.rule}
        return RunConfig(method=name, **changes).composition()
