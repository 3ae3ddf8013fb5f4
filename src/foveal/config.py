"""The configuration of a run: TOML and overrides to a frozen, checked `RunConfig`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from foveal import data, objectives, perturbations
from foveal.boundary import require_name
from foveal.collapse import GuardConfig
from foveal.crosscheck import cross_check
from foveal.data.problems import DataSource
from foveal.instances import require_importable
from foveal.rewards.adapters.functions import build_reward, told_apart
from foveal.rewards.settings import GradingConfig as GradingConfig
from foveal.spec import Config, ConfigError, FovealError, build_component, explain
from foveal.switches import apply_overrides, fill_in, settle_validation
from foveal.tables import own_copy, read_table
from foveal.tables import shipped as shipped
from foveal.types import Objective, Perturbation, Reward, Sampling, ViewName

SCHEMA_VERSION = 1
"""Version of the run folder's layout and of the lines in it."""

WORLD = "world"
"""Data type of the procedural problems."""


SHIPPED_MODELS = {"tiny": "", "tiny-text-prior": " --text-prior"}
"""Model paths that stand for shipped checkpoints, and the words that make `worlds coldstart` remake each."""


def _data(value: object) -> object:
    if isinstance(value, str) and ":" not in value:
        value = named_data({}, value)
    if isinstance(value, Mapping) and "type" not in value:
        value = {"type": "auto", **value}
    return build_component(value, data.REGISTRY, kind="data", base=DataSource)


def _objective(value: object) -> object:
    return build_component(value, objectives.REGISTRY, kind="objective", base=Objective)


def _perturbation(value: object) -> object:
    return build_component(value, perturbations.REGISTRY, kind="perturbation", base=Perturbation)


def _reward(value: object) -> object:
    return build_reward(value)


DataField = Annotated[SerializeAsAny[DataSource], BeforeValidator(_data)]
ObjectiveField = Annotated[SerializeAsAny[Objective], BeforeValidator(_objective)]
PerturbationField = Annotated[SerializeAsAny[Perturbation], BeforeValidator(_perturbation)]
RewardField = Annotated[SerializeAsAny[Reward], BeforeValidator(_reward)]


def _nameable(path: str) -> str:
    try:
        require_name(path, where="a path")
    except FovealError as error:
        raise ValueError(str(error)) from error
    return path


class ModelConfig(Config):
    """Which model is trained, and how it is run."""

    path: Annotated[str, AfterValidator(_nameable)] = "tiny"
    """Hugging Face folder or hub id; "tiny" is the checkpoint that ships with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights. Pure bfloat16 weights hardly move at the papers' learning rate."""
    attention: Literal["auto", "split", "flash", "tiled", "dense"] = "auto"
    """How the packed row attends; "auto" takes split on a CPU, on CUDA flash in bfloat16 and tiled in
    float32, and dense elsewhere, unless another is clearly faster in a short measurement at start."""
    head: Literal["auto", "plain", "compiled"] = "auto"
    """How log-probabilities and entropies are made of logits; "auto" takes compiled on CUDA, once it agrees
    with plain, and plain elsewhere."""
    linears: Literal["auto", "torch", "onednn"] = "auto"
    """Whose matrix products linear layers take on a CPU in float32; "auto" measures them in training, kind by
    kind, and takes torch's elsewhere. All are exact and round differently."""
    device: str = "auto"
    """Torch device; "auto" takes the first accelerator, else the CPU."""
    freeze_vision: bool = False
    """Train the text model alone. The vision tower then runs once a prompt and view in a step."""
    reuse_features: bool = True
    """Keep what a frozen vision tower made of a picture, up to 1 GiB; otherwise it runs in each forward.
    Results are the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward: less memory, about a third more time."""


class SamplingConfig(Config):
    """How completions are drawn."""

    group_size: int = Field(8, ge=1, le=1024)
    """Completions a problem; at least 2, since an advantage compares a completion with its group."""
    prompts_per_step: int = Field(12, ge=1)
    """Problems a step, after dynamic sampling."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest completion, tokens."""
    max_prompt_tokens: int = Field(4096, ge=1)
    """Longest prompt, tokens, visual ones counted (PAPO: 4096)."""
    temperature: float = Field(1.0, gt=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus share (PAPO: 0.99). Log-probabilities are those of the untruncated policy."""
    max_refills: int = Field(20, ge=1)
    """Rounds of sampling a step while the objective drops groups (DAPO, PAPO-D: 20)."""
    when_none_kept: Literal["draw_more", "keep_all"] = "draw_more"
    """A round of which the objective keeps no group: draw another, or keep all of it (PAPO's code)."""
    when_short: Literal["go_on", "stop"] = "go_on"
    """Too few groups after `max_refills` rounds: the step goes on with those, or the run stops (PAPO's
    code)."""
    decode: Literal["auto", "eager", "graph"] = "auto"
    """How the local sampler runs a token step: "graph" replays it from CUDA graphs, "eager" calls its kernels
    one by one; "auto" takes graph on CUDA, once a trial of it holds, and eager elsewhere."""

    def sampling(self) -> Sampling:
        """The engine's form."""
        return Sampling(
            group_size=self.group_size,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )


class OptimizerConfig(Config):
    """AdamW and how a step's batch is cut."""

    lr: float = Field(1e-6, ge=0)
    """Learning rate (PAPO, CPPO: 1e-6 for 3B and 7B)."""
    warmup_steps: int = Field(10, ge=0)
    """Steps of linear warm-up: a fresh Adam without it throws a trained policy off."""
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this L2 norm."""
    mini_batches: int = Field(1, ge=1)
    """Updates a step; the step's groups are dealt out over them."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Tokens of one packed forward, visual ones counted: memory follows this number, results do not."""
    average_over: Literal["mini_batch", "micro_batch"] = "mini_batch"
    """What a term is averaged over. "micro_batch" averages each micro-batch alone and takes the mean of these
    means, as the official codes of PAPO and CPPO do: results then depend on how the batch is cut."""
    skip_idle: bool = True
    """Leave out of the update completions that cannot change it (without an advantage, where no other term
    takes them in), and of a view those that it is not needed for (CPPO's gate). Results are the same; what
    is logged of the update is of those that are run."""
    hold_prompts: Literal["auto", "always", "never"] = "auto"
    """Run prompts and their pictures once for sampling and the update: their graph is held while completions
    are drawn. "auto" does so where a step fits one row of `micro_batch_tokens` and views do not go apart
    (`view_graphs`), so that memory keeps its bound. Results are the same to rounding."""
    hold_products: Literal["auto", "always", "never"] = "auto"
    """Take what linear layers made of completions in sampling for the forward of the update, and compute only
    the rest. "auto" does so where a step fits one row of `micro_batch_tokens`; never with gradient
    checkpointing, which is there to keep nothing. Attention of every token, and some rows of each product,
    are compared with the update's own: where they are off by more than rounding, the step is made without.
    Results are the same to rounding."""
    view_graphs: Literal["auto", "together", "apart"] = "auto"
    """Hold the graphs of the update's views together, or one at a time ("apart": less memory, the same
    results; a forward without gradient more for each view beyond the first whose values are not known).
    "auto" takes apart where that costs no forward."""
    old_logprobs: Literal["auto", "sampled", "scored"] = "auto"
    """Where the old policy's log-probabilities come from: the sampler's own, or a scoring pass. "auto" takes
    the sampler's until they are further off than `parity_limit`, then scores for the rest of the run."""
    parity_limit: float = Field(0.0, ge=0, allow_inf_nan=True)
    """Nats that a token's recorded log-probability or entropy may differ from the policy's under "auto"; 0
    is 0.001 in float32 and 0.5 in bfloat16, inf is no limit."""


class ValidationConfig(Config):
    """Evaluation between steps."""

    data: DataField
    every: int = Field(25, ge=1)
    """Steps between two validations."""
    problems: int = Field(256, ge=1)
    """The first so many problems of the data."""
    samples: int = Field(0, ge=0)
    """Completions a problem (avg@k); 0 is one greedy completion."""
    other_picture: bool = True
    """Also with another problem's picture, which says whether the policy looks; as many completions again."""
    gate: bool = False
    """Refuse to train a model that is right as often with another problem's picture (needs other_picture)."""

    @model_validator(mode="after")
    def _gate_needs_other_pictures(self) -> "ValidationConfig":
        if self.gate and not self.other_picture:
            raise ValueError(
                "gate = true compares with another problem's picture; set other_picture = true too"
            )
        return self


class CheckpointConfig(Config):
    """When the state is saved."""

    every: int = Field(25, ge=1)
    """Steps between two checkpoints."""
    keep: int = Field(1, ge=1)
    """Newest checkpoints kept, beside the best one."""


class PicturesConfig(Config):
    """Who loads, perturbs and preprocesses pictures."""

    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    """Threads that make the next step's pictures while the model works; 0 makes them when they are asked for.
    "auto": 0 where the model runs on the CPU, else up to 4. Results are the same."""


class RecordConfig(Config):
    """What completions.jsonl holds."""

    groups: int = Field(4, ge=0)
    """Groups a step whose completions are written."""
    token_groups: int = Field(1, ge=0)
    """Groups of these that also get the per-token values of the terms, and their pictures."""


class RunConfig(Config):
    """One training run. Every field can be set in TOML or overridden as `section.key=value`."""

    seed: int = 0
    steps: int = Field(200, ge=1)
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 chooses by a short measurement at start, recorded in the run folder."""
    model: ModelConfig = ModelConfig()
    data: DataField
    sampling: SamplingConfig = SamplingConfig()
    objective: ObjectiveField
    perturbations: dict[ViewName, PerturbationField] = {}
    rewards: tuple[RewardField, ...]
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: ValidationConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    grading: GradingConfig = GradingConfig()
    pictures: PicturesConfig = PicturesConfig()
    record: RecordConfig = RecordConfig()
    guard: GuardConfig = GuardConfig()

    @model_validator(mode="after")
    def _cross_check(self) -> "RunConfig":
        # A frozen model: the field is filled in before anybody sees it, so that the saved config says it.
        self.__dict__["objective"] = self.objective.within(self.sampling.max_new_tokens)
        self.__dict__["rewards"] = told_apart(self.rewards)
        cross_check(self)
        return self


DEFAULTS: Mapping[str, Any] = {
    "objective": {"type": "papo", "preset": "g_3b"},
    "perturbations": {"removed": {"type": "patch_mask"}},
    "rewards": [{"type": "boxed", "weight": 0.9}, {"type": "format", "weight": 0.1}],
}
"""What a run without a config file does: PAPO with its published 3B settings on the data that is named."""


def load(
    source: Path | Mapping[str, Any] | None,
    *,
    overrides: Sequence[str] = (),
    model: str | None = None,
    data: str | None = None,
    message: Callable[[str], None] = lambda text: None,
    complete: bool = False,
    name: str | None = None,
) -> RunConfig:
    """Read a TOML file (or a table), put `model` and `data` in, apply `a.b=value` overrides, check
    everything.

    A key `reward`, and one reward in the place of the list, is a list `rewards` of one. `data` is a path, a
    hub id, or "world". It replaces a table of another type; columns and the like stay. A type that an
    override changes brings what it needs (`foveal.switches`), with `complete` that of the table too;
    `message` reports it. `name` is what errors call a table.

    Raises: ConfigError, naming the field, what was expected, and for an unknown key the nearest known one.
    """
    table = own_copy(DEFAULTS) if source is None else read_table(source)
    if "sweep" in table:
        raise ConfigError(
            f"{source} has a [sweep] table, so it is several runs: start it by foveal sweep {source}; one of "
            f"them alone is OUT/configs/ARM.toml in the folder of the sweep"
        )
    if model is not None:
        table["model"] = {**_table(table, "model"), "path": model}
    if data is not None:
        table["data"] = named_data(_table(table, "data"), data)
    switched = apply_overrides(table, overrides, message=message)
    settle_validation(table, overrides, other_data=data, message=message)
    if "reward" in table:
        table["rewards"] = [table.pop("reward")]
    if isinstance(table.get("rewards"), str | Mapping | Reward):
        table["rewards"] = [table["rewards"]]
    if source is None and table["perturbations"] == DEFAULTS["perturbations"]:
        table["perturbations"] = {}  # each method's own, as nobody asked for PAPO's
    if "objective" in table and (switched or complete or source is None):
        fill_in(table, message=message if switched or complete else lambda text: None)
    where = name or (str(source) if isinstance(source, Path) else "config")
    if "data" not in table:
        raise ConfigError(f"{where}: no data; add a [data] table or pass --data FILE_OR_HUB_ID")
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        origins = {override.partition("=")[0].strip(): override for override in overrides}
        from foveal.objectives.extension import held_objective

        held = held_objective(table.get("objective"))
        raise ConfigError(explain(error, RunConfig, where=where, overrides=origins, held=held)) from error


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of this name, which an option changes; a bare name in its place is what the option replaces.

    Raises: ConfigError for anything else.
    """
    found = tables.get(name, {})
    if isinstance(found, str):
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name} = {found!r}: expected a table [{name}]")
    return found


def named_data(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The data table with another path; settings of a world mean nothing to a file, and the other way
    round."""
    was_world = table.get("type") == WORLD
    if name == WORLD:
        return {**table} if was_world else {"type": WORLD}
    kept = {} if was_world else {key: value for key, value in table.items() if key != "type"}
    return {**kept, "path": name}


def dump(config: Config) -> str:
    """The resolved configuration as TOML; reading it gives the same configuration.

    Raises: ConfigError for a class that could not be found again.
    """
    require_importable(config)
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
