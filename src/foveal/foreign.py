"""Settings of TRL, EasyR1, PAPO's code, verl and ms-swift, and what they are called here.

People bring their configs: a key of theirs is answered with ours, or with a plain word where there is none.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_NO_ENGINE = "the sampler runs in the trainer's process; there is no server or other engine to set up"
_ONE_DEVICE = "a run is one process on one device; sharding over several is not there yet"
_NO_LORA = "adapters are not there yet: all weights are trained (model.freeze_vision leaves the tower out)"
_NO_TRACKER = (
    "metrics go to metrics.jsonl in the run folder, and `foveal report RUN` draws them; no tracker yet"
)
_STEPS = "steps: a run is counted in steps; one epoch is rows / sampling.prompts_per_step of them"
_CONSTANT = "the learning rate is constant after optimizer.warmup_steps"
_PREFIX = "the prompt is the question and data.prompt_suffix"
_CONSTANT_BATCH = (
    "sampling.prompts_per_step (problems per step) with optimizer.mini_batches (updates per step); memory "
    "follows optimizer.micro_batch_tokens, and results do not depend on it"
)

WORDS: Mapping[str, str] = {
    # What is trained, on what
    "model_name_or_path": "model.path",
    "model_path": "model.path",
    "model.model_path": "model.path",
    "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "bf16": 'model.dtype = "bfloat16"',
    "fp16": "model.dtype: float32 or bfloat16",
    "attn_implementation": "model.attention",
    "attn_impl": "model.attention",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "enable_gradient_checkpointing": "model.gradient_checkpointing",
    "freeze_vision_tower": "model.freeze_vision",
    "freeze_vision_modules": "model.freeze_vision",
    "freeze_vit": "model.freeze_vision",
    "trust_remote_code": "no code of a model folder is ever run; families are built in",
    "dataset_name": "data.path",
    "dataset": "data.path",
    "train_dataset": "data.path",
    "train_files": "data.path",
    "dataset_train_split": "data.split",
    "dataset_config": "data.path: one file, folder or hub id",
    "val_files": "validation.data.path",
    "val_dataset": "validation.data.path",
    "eval_dataset": "validation.data.path",
    "prompt_key": "data.question_column",
    "problem_key": "data.question_column",
    "question_key": "data.question_column",
    "answer_key": "data.answer_column",
    "image_key": "data.images_column",
    "images_key": "data.images_column",
    "max_pixels": "data.max_image_pixels",
    "format_prompt": "data.prompt_suffix",
    "system_prompt": _PREFIX,
    "override_chat_template": _PREFIX,
    "filter_overlong_prompts": "sampling.max_prompt_tokens",
    # How it is sampled
    "num_generations": "sampling.group_size",
    "rollout.n": "sampling.group_size",
    "rollout_n": "sampling.group_size",
    "num_return_sequences": "sampling.group_size",
    "per_device_train_batch_size": _CONSTANT_BATCH,
    "train_batch_size": "sampling.prompts_per_step",
    "rollout_batch_size": "sampling.prompts_per_step",
    "gen_batch_size": "sampling.prompts_per_step",
    "generation_batch_size": "sampling.prompts_per_step (problems, not completions)",
    "gradient_accumulation_steps": _CONSTANT_BATCH,
    "ppo_mini_batch_size": "optimizer.mini_batches (how many updates per step, not their size)",
    "global_batch_size": "optimizer.mini_batches (how many updates per step, not their size)",
    "mini_batch_size": "optimizer.mini_batches (how many updates per step, not their size)",
    "num_iterations": "optimizer.mini_batches: each group is used once",
    "ppo_epochs": "optimizer.mini_batches: each group is used once",
    "steps_per_generation": "optimizer.mini_batches",
    "ppo_micro_batch_size_per_gpu": "optimizer.micro_batch_tokens (tokens, not rows)",
    "micro_batch_size_per_device_for_update": "optimizer.micro_batch_tokens (tokens, not rows)",
    "micro_batch_size_per_device_for_experience": "optimizer.micro_batch_tokens (tokens, not rows)",
    "log_prob_micro_batch_size_per_gpu": "optimizer.micro_batch_tokens (tokens, not rows)",
    "ppo_max_token_len_per_gpu": "optimizer.micro_batch_tokens",
    "max_completion_length": "sampling.max_new_tokens",
    "max_response_length": "sampling.max_new_tokens",
    "response_length": "sampling.max_new_tokens",
    "max_new_tokens": "sampling.max_new_tokens",
    "max_prompt_length": "sampling.max_prompt_tokens (visual tokens counted)",
    "max_length": "sampling.max_prompt_tokens and sampling.max_new_tokens",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_p: there is no top-k cut",
    "min_p": "sampling.top_p: there is no min-p cut",
    "repetition_penalty": "not needed: completions are drawn from the policy itself",
    "dynamic_sample": "objective.filter_groups: groups without a signal are dropped",
    "filter_groups": "objective.filter_groups: groups without a signal are dropped",
    "online_filtering": "objective.filter_groups: groups without a signal are dropped",
    "mask_truncated_completions": "objective.overlong_buffer: all completions count, long ones earn less",
    # How it is updated
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "optim.lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "grad_clip": "optimizer.max_grad_norm",
    "clip_grad": "optimizer.max_grad_norm",
    "warmup_steps": "optimizer.warmup_steps",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "warmup_ratio": "optimizer.warmup_steps (steps, not a share)",
    "lr_warmup_ratio": "optimizer.warmup_steps (steps, not a share)",
    "lr_warmup_steps_ratio": "optimizer.warmup_steps (steps, not a share)",
    "lr_scheduler_type": _CONSTANT,
    "warmup_style": _CONSTANT,
    "adam_beta1": "optimizer.betas, a pair",
    "adam_beta2": "optimizer.betas, a pair",
    "optim": "the optimizer is AdamW; its settings are in [optimizer]",
    "vit_lr": "optimizer.lr: one rate for all weights that are trained",
    "num_train_epochs": _STEPS,
    "total_epochs": _STEPS,
    "total_training_steps": "steps",
    "max_steps": "steps",
    # What is optimised
    "adv_estimator": "objective.type",
    "advantage_estimator": "objective.type",
    "rlhf_type": "objective.type",
    "loss_type": "objective.type, and objective.aggregation for how tokens are averaged",
    "loss_agg_mode": 'objective.aggregation: "token_mean", "sequence_mean" or "sequence_sum"',
    "importance_sampling_level": 'objective.type: "gspo" clips the ratio of a whole completion',
    "scale_rewards": 'objective.advantage: "group_std" divides by the spread, "group_mean" does not',
    "norm_adv_by_std_in_grpo": 'objective.advantage: "group_std" divides, "group_mean" does not',
    "beta": "objective.kl_coef",
    "kl_coef": "objective.kl_coef",
    "kl_loss_coef": "objective.kl_coef",
    "use_kl_loss": "objective.kl_coef: above 0 is on",
    "use_kl_in_reward": "objective.kl_coef: the KL is a term of the loss, never part of the reward",
    "disable_kl": "objective.kl_coef = 0",
    "kl_penalty": "objective.kl_estimator",
    "kl_loss_type": "objective.kl_estimator",
    "epsilon": "objective.clip_low, and objective.clip_high where epsilon_high is not given",
    "epsilon_low": "objective.clip_low",
    "epsilon_high": "objective.clip_high",
    "cliprange": "objective.clip_low and objective.clip_high",
    "clip_ratio": "objective.clip_low and objective.clip_high",
    "clip_ratio_low": "objective.clip_low",
    "clip_ratio_high": "objective.clip_high",
    "clip_ratio_dual": "objective.dual_clip",
    "clip_ratio_c": "objective.dual_clip",
    "delta": "objective.dual_clip",
    "clip_low": "objective.clip_low",
    "clip_high": "objective.clip_high",
    "entropy_coeff": "objective.entropy_bonus_coef",
    "sync_ref_model": "not needed: the reference policy is the start, and stays",
    "ref_model": "not needed: the reference policy is the start, and stays",
    # PAPO's and CPPO's own
    "use_kl_prcp": 'objective.type = "papo"',
    "kl_prcp_coef": "objective.kl_prcp_coef",
    "kl_prcp_penalty": "objective.estimator",
    "use_ori_entropy_loss": "objective.entropy_coef: above 0 is on",
    "ori_entropy_loss_coef": "objective.entropy_coef",
    "use_aug_entropy_loss": "objective.removed_entropy_coef: above 0 is on",
    "aug_entropy_loss_coef": "objective.removed_entropy_coef",
    "use_sft_loss": "objective.sft_coef: above 0 is on",
    "sft_loss_coef": "objective.sft_coef",
    "black_prob": "perturbations.removed.ratio of patch_mask",
    "cpl_coef": "objective.cpl_coef",
    # What is paid
    "reward_funcs": "[[rewards]], one table each: type = a short name or 'their_file.py:func'",
    "reward_function": "[[rewards]] with type = 'their_file.py:func'",
    "reward_fn": "[[rewards]] with type = 'their_file.py:func'",
    "custom_reward_function": "[[rewards]] with type = 'their_file.py:func'",
    "external_plugins": "[[rewards]] with type = 'their_file.py:func'",
    "reward_weights": "weight in each table of [[rewards]]",
    "reward_model": "[[rewards]]: rules and functions; a judge behind an address is a reward too",
    # Around it
    "output_dir": "--out RUN (in Python out=)",
    "save_checkpoint_path": "--out RUN (in Python out=)",
    "default_local_dir": "--out RUN (in Python out=)",
    "experiment_name": "--out RUN (in Python out=)",
    "run_name": "--out RUN (in Python out=)",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "save_limit": "checkpoint.keep",
    "save_total_limit": "checkpoint.keep",
    "max_actor_ckpt_to_keep": "checkpoint.keep",
    "save_strategy": "checkpoint.every (steps)",
    "eval_steps": "validation.every",
    "test_freq": "validation.every",
    "val_freq": "validation.every",
    "eval_strategy": "validation.every (steps), or validation = false",
    "do_eval": "validation = false, or a [validation] table",
    "val_before_train": "not needed: a run with a [validation] table always validates before its first step",
    "resume_from_checkpoint": "foveal train --resume RUN (in Python foveal.resume(RUN))",
    "find_last_checkpoint": "foveal train --resume RUN (in Python foveal.resume(RUN))",
    "log_completions": "record.groups: completions.jsonl always holds some",
    "logging_steps": "not needed: each step is written to metrics.jsonl",
    "data_seed": "seed",
    "dataloader_num_workers": "pictures.workers",
    "report_to": _NO_TRACKER,
    "logger": _NO_TRACKER,
    "wandb_project": _NO_TRACKER,
    "project_name": _NO_TRACKER,
    "push_to_hub": "not needed: the model of a run is a Hugging Face folder; upload it as any other",
    # What is not here
    "deepspeed": _ONE_DEVICE,
    "fsdp": _ONE_DEVICE,
    "fsdp_config": _ONE_DEVICE,
    "offload": _ONE_DEVICE,
    "n_gpus_per_node": _ONE_DEVICE,
    "nnodes": _ONE_DEVICE,
    "tensor_parallel_size": _ONE_DEVICE,
    "tensor_model_parallel_size": _ONE_DEVICE,
    "ulysses_sequence_parallel_size": _ONE_DEVICE,
    "ulysses_size": _ONE_DEVICE,
    "peft_config": _NO_LORA,
    "use_peft": _NO_LORA,
    "train_type": _NO_LORA,
    "tuner_type": _NO_LORA,
    "lora": _NO_LORA,
    "lora_r": _NO_LORA,
    "lora_rank": _NO_LORA,
    "lora_alpha": _NO_LORA,
    "lora_dropout": _NO_LORA,
    "target_modules": _NO_LORA,
    "load_in_4bit": "quantised weights are not there",
    "load_in_8bit": "quantised weights are not there",
    "use_vllm": _NO_ENGINE,
    "vllm_mode": _NO_ENGINE,
    "vllm_gpu_memory_utilization": _NO_ENGINE,
    "gpu_memory_utilization": _NO_ENGINE,
    "rollout.name": _NO_ENGINE,
    "enforce_eager": 'sampling.decode = "eager"',
    "critic": "not needed: advantages come from groups, and no value model is trained",
    "multi_turn": "a completion is one turn",
    "num_generations_eval": "validation.samples",
    "per_device_eval_batch_size": "not needed: validation batches by itself",
    "val_override_config": "[validation] samples; sampling settings are those of [sampling]",
    "remove_unused_columns": "not needed: columns are kept, and rewards see them",
}
"""Their word -> our field, or what to know. `worker.rollout.n` is found by the end of its path."""

OWNERS: Mapping[str, str] = {
    "filter_groups": "dapo",
    "overlong_buffer": "dapo",
    "kl_prcp_coef": "papo",
    "estimator": "papo",
    "entropy_coef": "papo",
    "removed_entropy_coef": "papo",
    "sft_coef": "papo",
    "cpl_coef": "cppo",
}
"""Fields of objectives in `WORDS` that one method alone has; the others are those of every base."""

_BASES = ("dapo",)
"""Owners that are a base of others."""

_FIELD = re.compile(r"objective\.(?!type\b)(\w+)")


class Held(NamedTuple):
    """An objective and the bases inside it, as a config has them: where fields of a word stand."""

    place: str
    """Where the outermost stands: "objective"."""
    fields: Sequence[frozenset[str]]
    """Names of the fields of each, from the outermost to the innermost base."""

    def home(self, field: str) -> str | None:
        """Where a field is set: in the innermost base if that has it, which the others follow; None without.

        >>> Held("objective", [frozenset({"base", "horizon"}), frozenset({"horizon"})]).home("horizon")
        'objective.base.horizon'
        """
        depths = [depth for depth, names in enumerate(self.fields) if field in names]
        if not depths:
            return None
        depth = depths[-1] if depths[-1] == len(self.fields) - 1 else depths[0]
        return f"{self.place}{'.base' * depth}.{field}"

    def hint(self, field: str) -> str | None:
        """For a key that the outermost does not have: the base or the method that does."""
        home, owner = self.home(field), OWNERS.get(field)
        if home is not None:
            return f"it is a field of the base: {home}"
        return None if owner is None else f'{owner} has it: {self._place_of(owner)}.type = "{owner}"'

    def _place_of(self, owner: str | None) -> str:
        own = owner is not None and owner not in _BASES
        return self.place if own else f"{self.place}{'.base' * (len(self.fields) - 1)}"

    def answer(self, ours: str) -> str:
        """The words of an answer with each field of an objective where this one has it."""
        lacking: list[str] = []

        def placed(found: re.Match[str]) -> str:
            field = found[1]
            home, owner = self.home(field), OWNERS.get(field)
            place = self._place_of(owner)
            if home is None:
                lacking.append(f'with {place}.type = "{owner}"' if owner else f"which {place} does not have")
            return home or f"{place}.{field}"

        words = _FIELD.sub(placed, ours)
        return f"{words} ({'; '.join(dict.fromkeys(lacking))})" if lacking else words


SECTIONS: Mapping[str, str] = {
    "actor_rollout_ref": "verl's",
    "worker": "EasyR1's",
    "algorithm": "verl's and EasyR1's",
    "trainer": "verl's and EasyR1's",
    "critic": "verl's",
    "ray_kwargs": "verl's",
    "vllm_config": "vLLM's",
}
"""Tables of theirs, none of which is here."""


def answers(place: str, value: object, held: Held | None = None) -> list[tuple[str, str]]:
    """For each setting at an unknown place: where it stands, and what it is here; [] where no other library
    is known to call it so. `held` is the objective of the config, whose base may have the field.

    >>> answers("worker.rollout.n", 5)
    [('worker.rollout.n', 'here it is sampling.group_size')]
    """
    found = []
    for path in _leaves(place, value):
        word = _ours(path)
        ours = word if word is None or held is None else held.answer(word)
        # Our own word is no answer to itself; where the base of the objective has it, that place is.
        if word is not None and ours is not None and _differs(path, word, ours, held):
            found.append((path, f"here it is {ours}" if _is_field(ours) else ours))
        elif path.split(".")[0] in SECTIONS:
            whose = SECTIONS[path.split(".")[0]]
            found.append((path, f"{whose} table has no counterpart here; `foveal config` prints all fields"))
    return found


def option_answers(words: Sequence[str]) -> list[str]:
    """For options of the command line that other libraries have (`--learning_rate 1e-6`), what they are
    here.

    >>> option_answers(["--learning_rate", "1e-6"])
    ['--learning_rate: here it is optimizer.lr (write it as section.key=value)']

    Nothing is loaded here: a field that every base has is named where the default method, PAPO, has it.
    """
    base = frozenset(found[1] for ours in WORDS.values() for found in _FIELD.finditer(ours)) - set(OWNERS)
    own = frozenset(field for field, owner in OWNERS.items() if owner == "papo")
    held = Held("objective", [own, base])
    found = []
    for word in words:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("--") and name:
            for _, ours in answers(f"--{name}", None, held):
                plain = "; a method without a base has it without .base" if "objective.base." in ours else ""
                found.append(f"--{name}: {ours} (write it as section.key=value{plain})")
    return found


def _ours(path: str) -> str | None:
    parts = path.lstrip("-").replace("-", "_").split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    whole = next((WORDS[end] for end in ends if end in WORDS), None)
    # A whole table of theirs, such as custom_reward_function.path, is answered by its name.
    return whole or next((WORDS[part] for part in reversed(parts[:-1]) if part in WORDS), None)


def _bare(word: str) -> str:
    return word.partition(":")[0]


def _differs(path: str, word: str, ours: str, held: Held | None) -> bool:
    if path not in (_bare(word), _bare(ours)):
        return True
    field = _FIELD.fullmatch(path)
    return held is not None and field is not None and held.home(field[1]) not in (None, path)


def _is_field(ours: str) -> bool:
    first = ours.split(" ")[0].rstrip(":,")
    return first == "steps" or "." in first and not first.startswith("-")


def _leaves(place: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}", inner)
    else:
        yield place
