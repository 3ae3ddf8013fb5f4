"""CUDA graphs of a token step, and whether decoding by them can be trusted on this device."""

from typing import Literal, get_args

import torch
from torch import Tensor

from foveal.policy.decode import Decoder, FixedCache
from foveal.policy.model import Policy
from foveal.ranges import unheard
from foveal.rollout.draw import Draw
from foveal.rollout.fixed import Graphs, Step, decode_fixed
from foveal.rollout.rows import Batch, Record, feeding
from foveal.spec import FovealError
from foveal.types import Sampling

DecodeWay = Literal["eager", "graph"]

TRIED_PROMPTS = (5, 3)
"""Prompt tokens of the trial's groups."""

TRIED_GROUP, TRIED_TOKENS = 2, 12

TRIAL_BOUND = 1e-3
"""Nats by which a replayed log-probability may differ from that of the same step, run: the kernels are the
same."""


class CudaGraphs:
    """Captures steps on a stream of its own. All graphs of a call share one pool of memory; only the last one
    is kept."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.fault: str | None = None
        """Why nothing is captured any more."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, step: Step) -> None:
        """On the stream of the captures, so that libraries set themselves up there."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def capture(self, step: Step) -> Step | None:
        """See `foveal.rollout.fixed.Graphs`; after a failure nothing is tried again."""
        if self.fault is not None:
            return None
        graph = torch.cuda.CUDAGraph()
        pool = None if self._graph is None else self._graph.pool()
        torch.cuda.synchronize(self.device)
        try:
            # A profile's listener would wait for the device, which a capture must not.
            with torch.cuda.stream(self._stream), unheard():
                # Other threads may prepare pictures meanwhile.
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    step()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            self.fault = str(error).splitlines()[0]
            return None
        self.free()
        self._graph = graph
        return graph.replay

    def free(self) -> None:
        """Let go of the graph; with the last one its memory goes back to the allocator."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None


class Unheld:
    """Runs every step as it is."""

    def run(self, step: Step) -> None:
        """See `foveal.rollout.fixed.Graphs`."""
        step()

    def capture(self, step: Step) -> Step | None:
        """Nothing is held."""
        return None

    def free(self) -> None:
        """Nothing is held."""


def decode_way(name: str, policy: Policy) -> DecodeWay:
    """The way to decode that a setting means for a policy.

    "auto": graph on CUDA, where the trial holds; eager elsewhere.
    Raises: FovealError for an unknown name, or when the named way cannot run there.
    """
    known = ("auto", *get_args(DecodeWay))
    if name not in known:
        raise FovealError(
            f"decode = {name!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}; change "
            f"[sampling] decode"
        )
    if name == "eager":
        return "eager"
    fault = graph_fault(policy)
    if fault is None:
        return "graph"
    if name == "graph":
        raise FovealError(
            f"decode = 'graph' cannot run here: {fault}; change [sampling] decode to 'auto', or the model's "
            f"device"
        )
    return "eager"


def graph_fault(policy: Policy) -> str | None:
    """Why the token step is not to be captured, or None: on CUDA a few tokens are replayed and compared."""
    if policy.device.type != "cuda":
        return f"its graphs are CUDA's, and the device is {policy.device}"
    if any(type(parameter.data) is not Tensor for parameter in policy.parameters()):
        return "its weights must lie whole on the device, and these are sharded or of another kind"
    decoder = policy.family.decoder(policy.model, policy.linears)
    if not decoder.keeps_shapes:
        return "its layers must be plain linear ones, and some of the model's are not"
    return replay_fault(policy, decoder, CudaGraphs(policy.device))


def replay_fault(policy: Policy, decoder: Decoder, graphs: CudaGraphs) -> str | None:
    """Why what is replayed is not what is run, or None."""
    with torch.no_grad():
        wanted = trial(policy, decoder, Unheld())
        found = trial(policy, decoder, graphs)
    if graphs.fault is not None:
        return f"the capture failed: {graphs.fault}"
    gap = float((found.logprobs - wanted.logprobs).abs().max())
    if not torch.equal(found.ids, wanted.ids) or not gap <= TRIAL_BOUND:
        return f"what it replays is off by {gap:.2g} nats; expected at most {TRIAL_BOUND} and the same tokens"
    return None


def trial(policy: Policy, decoder: Decoder, graphs: Graphs) -> Record:
    """Tokens drawn behind made-up keys and values of two prompts."""
    draw = torch.Generator().manual_seed(0)
    text = policy.model.config.get_text_config()  # type: ignore[union-attr, operator]
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rows, device = len(TRIED_PROMPTS) * TRIED_GROUP, policy.device

    def made(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw).to(device, next(policy.parameters()).dtype)

    size = (1, text.num_key_value_heads, sum(TRIED_PROMPTS), width)
    captured = {layer: (made(*size), made(*size)) for layer in range(text.num_hidden_layers)}
    record = Record(rows, TRIED_TOKENS, entropies=True, device=device)
    batch = Batch(
        cache=FixedCache.of(captured, TRIED_PROMPTS, group_size=TRIED_GROUP, length=TRIED_TOKENS),
        rows=torch.arange(rows, device=device),
        position=torch.full((rows,), max(TRIED_PROMPTS), device=device),
        noise=torch.rand(rows, TRIED_TOKENS, generator=draw, dtype=torch.float64).to(device),
        running=~record.ended,
    )
    sampling = Sampling(
        group_size=TRIED_GROUP,
        max_new_tokens=TRIED_TOKENS,
        min_new_tokens=TRIED_TOKENS,
        entropies=True,
    )
    states = made(rows, text.hidden_size)
    decode_fixed(
        record, batch, states, draw=Draw(policy, sampling), feed=feeding(policy, decoder), graphs=graphs
    )
    return record
