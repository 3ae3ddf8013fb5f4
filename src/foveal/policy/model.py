"""The policy: a transformers model with its family adapter, whose one forward runs a view of a batch."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from foveal.boundary import door
from foveal.policy import forward as packing
from foveal.policy.attention import AttentionPath, PackedLayout
from foveal.policy.families import Family, family_of
from foveal.policy.folder import local_folder
from foveal.policy.head import log_distributions, token_stats
from foveal.policy.head_paths import HeadChoice, head_choice, require_head_name
from foveal.policy.held import Held, HeldPart, HeldRow
from foveal.policy.linears import PLAIN, Linears, linears_of
from foveal.policy.merge import KeysValues
from foveal.policy.paths import attention_path, require_path_name
from foveal.policy.processing import PROCESSOR_FILES, Encoded, Processor
from foveal.policy.products import ProductPart
from foveal.policy.soundness import (
    AGAIN,
    ODD,
    config_of,
    quiet_transformers,
    require_finite_weights,
    require_vocabulary,
    require_weights,
    try_out,
)
from foveal.ranges import TEXT, VISION, mark_backward, span
from foveal.spec import FovealError
from foveal.types import CLEAN, Inputs, Prompt, TokenStats, ViewName

Captured = dict[int, KeysValues]
"""Keys and values [1, kv_heads, S, d] of each layer."""

FEATURE_BYTES = 1 << 30
"""Features of a frozen vision tower that are kept."""


class Policy(nn.Module):
    """A vision-language model that runs a prompt and its pictures once for all completions of its group.

    All model work of a view, the head included, happens inside `forward`, so that a sharding wrapper sees
    one call.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        processor: Processor,
        *,
        path: AttentionPath,
        head: str = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.processor = processor
        self.attention_path: AttentionPath = path
        self.held = Held(model=model)
        self._head_setting = head
        self.linears = PLAIN
        self.reuse_features = True
        self._seen = WeakTensorKeyDictionary()

    def use_linears(self, linears: Linears) -> None:
        """Make the products of linear layers so, from now on: in the layers, the head and decoding."""
        self.family.use_linears(self.model, linears)
        self.linears = linears

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    @cached_property
    def head(self) -> HeadChoice:
        """How the head's maths runs, found out when it is first asked for: sampling alone needs none.

        Raises: FovealError, when the head is to be compiled and cannot be.
        """
        weight, _ = self.family.head(self.model)
        return head_choice(self._head_setting, device=self.device, dtype=weight.dtype, words=weight.shape[0])

    def forward(
        self, inputs: Inputs, view: ViewName, *, rows: Tensor | None = None, temperature: float = 1.0
    ) -> TokenStats:
        """Log-probabilities and entropies [B T] of the completions under a view.

        `rows` (Bool [B]) chooses completions; the others hold zeros. Logits are divided by `temperature`.
        """
        size = inputs.completion_ids.shape
        chosen = torch.arange(size[0]) if rows is None else rows.nonzero()[:, 0].cpu()
        if len(chosen) == 0:
            return self._nothing(inputs.completion_ids)
        row = packing.pack(
            inputs,
            chosen,
            path=self.attention_path,
            windows=self.family.windows,
            held=self._held(inputs, view, chosen),
            products=self._products(inputs, view, chosen),
        )
        states = self._states(inputs, view, row)
        if row.products is not None:
            self.held.gaps.extend(row.products.gaps)
        weight, bias = self.family.head(self.model)
        scored = states[row.predict]
        linears = self.linears
        logprobs, entropy = token_stats(
            scored,
            weight,
            bias,
            row.targets,
            temperature=temperature,
            path=self.head.path,
            linears=linears,
        )
        empty = logprobs.new_zeros(size[0] * size[1])
        places = row.place

        def log_probs_at(mask: Tensor) -> Tensor:
            kept = mask.reshape(-1)[places]
            order = places[kept].argsort()
            return log_distributions(
                scored[kept][order], weight, bias, temperature=temperature, linears=linears
            )

        return TokenStats(
            logprobs=empty.index_copy(0, places, logprobs).view(size),
            entropy=empty.index_copy(0, places, entropy).view(size),
            log_probs_at=log_probs_at,
        )

    def _nothing(self, completion_ids: Tensor) -> TokenStats:
        """Of no completion: zeros [B T]."""
        words = len(self.family.head(self.model)[0])
        nothing = torch.zeros(completion_ids.shape, device=completion_ids.device)

        def log_probs_at(mask: Tensor) -> Tensor:
            if bool(mask.any()):
                raise FovealError(
                    "log_probs_at was called on a view of which no completion was run; check Objective.rows"
                )
            return nothing.new_zeros(0, words)

        return TokenStats(logprobs=nothing, entropy=nothing, log_probs_at=log_probs_at)

    def _states(self, inputs: Inputs, view: ViewName, row: packing.PackedRow) -> Tensor:
        """Hidden states [R, H] of what is read of a packed row, its prompts first."""
        if row.held is not None and len(row.token_ids) == 0:
            return row.held.states
        embeddings = self.family.embed(self.model, row.token_ids)
        if len(row.image_places):
            features = self.features(packing.pictures(inputs, view, row.prompts))
            embeddings = embeddings.index_copy(0, row.image_places, features.to(embeddings.dtype))
        states = self._hidden(embeddings, row.position_ids, row.layout, row.products)
        return states if row.held is None else torch.cat([row.held.states, states])

    def _held(self, inputs: Inputs, view: ViewName, rows: Tensor) -> HeldPart | None:
        """What was held of the prompts of these completions; they are held under the clean view."""
        if view != CLEAN or not self.held.rows:
            return None
        prompts = packing.prompts_of(inputs, rows)
        pixels = inputs.vision[view].pixels
        return self.held.find([inputs.prompts[p] for p in prompts], [pixels[p] for p in prompts])

    def _products(self, inputs: Inputs, view: ViewName, rows: Tensor) -> ProductPart | None:
        """What was recorded of these completions in sampling: under the clean view, for the update."""
        device = self.device
        if view != CLEAN or not self.held.products or not torch.is_grad_enabled():
            return None
        if torch.is_autocast_enabled(device.type) or not self.takes_products:
            return None
        pixels, prompts = inputs.vision[view].pixels, inputs.prompts
        owners, lengths = inputs.prompt_index[rows].tolist(), inputs.lengths[rows].tolist()
        tokens = inputs.completion_ids[rows].tolist()
        given = zip(owners, lengths, tokens, strict=True)
        completions = ((prompts[o], pixels[o], ids[:length]) for o, length, ids in given)
        return self.held.find_products(completions, device=device)

    @property
    def takes_products(self) -> bool:
        """Whether an update may take products that sampling made: not where layers are run again in the
        backward, by the library's switch or in torch's wrapper, nor where a hook waits for linear layers."""
        return not any(
            getattr(module, "gradient_checkpointing", False)
            or type(module).__name__ == "CheckpointWrapper"
            or (isinstance(module, nn.Linear) and (module._forward_hooks or module._forward_pre_hooks))
            for module in self.model.modules()
        )

    def _hidden(
        self,
        embeddings: Tensor,
        positions: Tensor,
        layout: PackedLayout,
        products: ProductPart | None = None,
    ) -> Tensor:
        with span(TEXT):
            states = self.family.hidden(self.model, embeddings, positions, layout, products)
        mark_backward(states, TEXT)
        return states

    def features(self, pictures: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Visual token embeddings [tokens, H] of (patches, grids), a pair a prompt.

        Those of a frozen tower are computed once for as long as the patches are held: sampling, scoring and
        the update share them, and so do later steps on a problem that is still cached. Without
        `reuse_features` the tower runs each time.
        """
        if self.vision_is_trained or not self.reuse_features:
            self._seen.clear()
            return self._run_tower(pictures)
        new = [pair for pair in pictures if len(pair[1]) and pair[0] not in self._seen]
        if new:
            held = sum(found.nbytes for found in self._seen.values())  # type: ignore[no-untyped-call]
            if held > FEATURE_BYTES:
                self._seen.clear()
                new = [pair for pair in pictures if len(pair[1])]
            with torch.no_grad():
                found = self._run_tower(new)
            sizes = [int(self.family.visual_tokens(grids).sum()) for _, grids in new]
            for (patches, _), part in zip(new, torch.split(found, sizes), strict=True):
                self._seen[patches] = part.clone()
        return torch.cat([self._seen[patches] for patches, grids in pictures if len(grids)])

    def _run_tower(self, pictures: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        patches, grids = (torch.cat(parts).to(self.device) for parts in zip(*pictures, strict=True))
        with span(VISION):
            features = self.family.features(self.model, patches, grids)
        mark_backward(features, VISION)
        return features

    @property
    def vision_is_trained(self) -> bool:
        """Whether any weight of the vision tower takes a gradient."""
        return any(p.requires_grad for p in self.family.vision(self.model).parameters())

    def prefill(self, encoded: Sequence[Encoded], *, hold: bool = False) -> tuple[Tensor, Captured]:
        """Run prompts alone: states [N, H] that predict first tokens, and each layer's keys and values
        [1, kv_heads, S, d] of all prompts, without gradient.

        `hold`: keep the graph for the update (`held`).
        """
        prompts, was_training = [item.prompt for item in encoded], self.training
        # Layers are checkpointed in training alone.
        self.train(was_training or hold)
        try:
            with torch.set_grad_enabled(hold):
                states, captured = self._prefill(prompts, encoded)
        finally:
            self.train(was_training)
        if hold:
            self.held.add(HeldRow.of(prompts, [item.pixels for item in encoded], states, captured))
        return states.detach(), {layer: (k.detach(), v.detach()) for layer, (k, v) in captured.items()}

    def _prefill(self, prompts: Sequence[Prompt], encoded: Sequence[Encoded]) -> tuple[Tensor, Captured]:
        device = self.device
        captured: Captured = {}
        layout = PackedLayout(
            prompt_lengths=tuple(len(p.token_ids) for p in prompts),
            completion_lengths=(),
            completion_prompts=(),
            device=device,
            path=self.attention_path,
            windows=self.family.windows,
            captured=captured,
        )
        embeddings = self.family.embed(self.model, torch.cat([p.token_ids for p in prompts]).to(device))
        places = torch.cat([p.image_mask for p in prompts]).nonzero()[:, 0].to(device)
        if len(places):
            features = self.features([(item.pixels, item.prompt.grids) for item in encoded])
            embeddings = embeddings.index_copy(0, places, features.to(embeddings.dtype))
        positions = torch.cat([p.position_ids for p in prompts], dim=1).to(device)
        return self._hidden(embeddings, positions, layout), captured

    def save(self, folder: Path) -> None:
        """Write a standard Hugging Face folder: weights, config, tokenizer and preprocessing files."""
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        model.save_pretrained(folder)
        for name in PROCESSOR_FILES:
            source = self.processor.folder / name
            if source.is_file() and source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)


def load_policy(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "auto",
    head: str = "auto",
    linears: str = "torch",
    device: torch.device | str = "cpu",
) -> Policy:
    """Load a model folder or hub id with its family adapter.

    `attention`, `head`, `linears`: what `attention_path`, `head_choice` and `linears_of` take.
    Raises: FovealError, when there is no such model, its weights are not whole, it has no adapter, or the
    attention or the linears do not fit the device.
    """
    device = torch.device(device)
    require_path_name(attention)
    require_head_name(head)
    products = linears_of(linears, device=device, dtype=dtype)
    folder = local_folder(path, setting="--model or [model] path")
    # A run has a progress bar of its own; those of loading and saving weights would tear it apart.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    config = config_of(folder, where=path)
    require_weights(folder, where=path)
    with door(f"the config.json of {path} is not that of a {config.model_type} model", AGAIN, also=ODD):
        family = family_of(config, where=path)
    with door(f"the weights in {path} cannot be loaded", AGAIN), quiet_transformers():
        found: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    model, loading = found
    if loading["missing_keys"]:
        # transformers would go on with random weights in their place.
        missing = sorted(loading["missing_keys"])
        raise FovealError(
            f"the weights in {path} are not whole: {len(missing)} tensors are missing, such as "
            f"{missing[0]!r}; expected every weight of a {config.model_type} model; fetch or export the "
            f"folder again"
        )
    require_finite_weights(model, where=path)
    family.adapt(model)
    model.to(device)
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    chosen = attention_path(attention, device=device, dtype=dtype, head_width=width)
    model.train()
    policy = Policy(model, family, Processor(folder, family), path=chosen, head=head)
    policy.use_linears(products)
    require_vocabulary(policy, where=path)
    try_out(policy, where=path)
    return policy
