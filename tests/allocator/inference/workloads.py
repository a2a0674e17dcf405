"""Inference as programs do it: transformers' generate() on small models of Llama's shape, with random weights.

Run in the process whose allocator is looked at. Every workload is a function of a ``Server``; all that it
decides comes from seeds, so each run asks for the same memory. Lengths are fixed (``min_new_tokens``): tokens
mean nothing on a device without kernels, and must not end a request.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

WORKLOADS: dict[str, Callable[[Server], None]] = {}


def workload(function: Callable[[Server], None]) -> Callable[[Server], None]:
    WORKLOADS[function.__name__] = function
    return function


class Server:
    """A model on the device, and requests for it."""

    def __init__(self, seed: int, *, hidden: int = 1024, layers: int = 3, kv_heads: int = 8) -> None:
        self.chance = random.Random(seed)
        torch.manual_seed(seed)
        self.hidden, self.layers, self.kv_heads = hidden, layers, kv_heads
        self.models: dict[str, Any] = {}

    def model(self, attention: str = "sdpa", *, hidden: int = 0) -> Any:
        """One with this kind of attention, made when it is first asked for."""
        hidden = hidden or self.hidden
        key = f"{attention}-{hidden}"
        if key not in self.models:
            config = LlamaConfig(
                hidden_size=hidden,
                intermediate_size=11 * hidden // 4,
                num_hidden_layers=self.layers,
                num_attention_heads=16,
                num_key_value_heads=self.kv_heads,
                vocab_size=16000,
                max_position_embeddings=4096,
                attn_implementation=attention,
            )
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float16)
            with torch.device("cuda:0"), torch.no_grad():
                self.models[key] = LlamaForCausalLM(config).eval()
            torch.set_default_dtype(before)
        return self.models[key]

    def prompts(self, batch: int, longest: int) -> dict[str, Any]:
        """A batch of prompts, padded on the left."""
        tokens = torch.zeros(batch, longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row in range(batch):
            length = longest if row == 0 else self.chance.randint(longest // 4 + 1, longest)
            tokens[row, -length:] = 7
            mask[row, -length:] = 1
        return {"input_ids": tokens.to("cuda:0"), "attention_mask": mask.to("cuda:0")}

    def generate(self, model: Any, batch: int, longest: int, new: int, **options: Any) -> Any:
        options.setdefault("do_sample", False)
        return model.generate(
            **self.prompts(batch, longest),
            max_new_tokens=new,
            min_new_tokens=new,
            pad_token_id=0,
            disable_compile=True,
            **options,
        )

    def batches(self, count: int, most: int = 8, longest: int = 900) -> list[tuple[int, int]]:
        return [(self.chance.randint(1, most), self.chance.randint(20, longest)) for _ in range(count)]


@workload
def growing_cache(server: Server) -> None:
    """One request after the other, each with a cache that grows by copies."""
    for batch, longest in server.batches(5):
        server.generate(server.model(), batch, longest, 5)


@workload
def eager_attention(server: Server) -> None:
    """Scores of all positions against all: the large temporaries of long prompts."""
    for batch, longest in server.batches(5, most=5, longest=700):
        server.generate(server.model("eager"), batch, longest, 4)


@workload
def static_cache(server: Server) -> None:
    """A cache as long as it may become, from the start; kept while it fits, replaced where it does not."""
    for batch, longest in server.batches(5):
        server.generate(server.model(), batch, longest, 4, cache_implementation="static")


@workload
def sampling(server: Server) -> None:
    for batch, longest in server.batches(4, most=12, longest=400):
        server.generate(
            server.model(), batch, longest, 5, do_sample=True, top_k=40, top_p=0.9, temperature=0.8,
            repetition_penalty=1.1, num_return_sequences=server.chance.randint(1, 3),
        )  # fmt: skip


@workload
def beam_search(server: Server) -> None:
    """The cache of all beams is reordered, which is copied, with each token."""
    for batch, longest in server.batches(3, most=4, longest=400):
        server.generate(server.model(), batch, longest, 4, num_beams=server.chance.randint(2, 4))


@workload
def conversations(server: Server) -> None:
    """Caches that are kept from turn to turn, those of several conversations side by side."""
    model = server.model()
    open_ones: list[tuple[Any, int, int]] = []
    with torch.no_grad():
        for _ in range(14):
            if len(open_ones) < 3 or server.chance.random() < 0.3:
                open_ones.append((DynamicCache(config=model.config), server.chance.randint(1, 4), 0))
            at = server.chance.randrange(len(open_ones))
            cache, batch, length = open_ones.pop(at)
            more = server.chance.randint(2, 300)
            tokens = torch.zeros(batch, more, dtype=torch.long, device="cuda:0")
            model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            if length + more > 900:
                continue  # ended: the cache goes
            if server.chance.random() < 0.2:
                cache.crop(-(more // 2))  # the last turn is edited
                more -= more // 2
            open_ones.append((cache, batch, length + more))


@workload
def two_streams(server: Server) -> None:
    """Prompts arrive on a stream of their own, and two models answer on two others."""
    arrivals, streams = torch.cuda.Stream(), [torch.cuda.Stream(), torch.cuda.Stream()]
    models = [server.model(), server.model(hidden=512)]
    for number, (batch, longest) in enumerate(server.batches(6, most=6, longest=600)):
        stream = streams[number % 2]
        with torch.cuda.stream(arrivals):
            prompts = server.prompts(batch, longest)
            staged = torch.empty(batch, longest, 3000, dtype=torch.float16, device="cuda:0")
        stream.wait_stream(arrivals)
        with torch.cuda.stream(stream):
            for tensor in (*prompts.values(), staged):
                tensor.record_stream(stream)
            answer = models[number % 2].generate(
                **prompts, max_new_tokens=3, min_new_tokens=3, pad_token_id=0, do_sample=False,
                disable_compile=True,
            )  # fmt: skip
            del staged
        answer.record_stream(torch.cuda.default_stream())
        del prompts, answer


@workload
def offloaded_cache(server: Server) -> None:
    """Layers' caches wait in host memory, and are fetched ahead on another stream."""
    for batch, longest in server.batches(3, most=4, longest=500):
        server.generate(server.model(), batch, longest, 3, cache_implementation="offloaded")


@workload
def emptied_between(server: Server) -> None:
    """A server that calls empty_cache() after each request."""
    for batch, longest in server.batches(5):
        server.generate(server.model(), batch, longest, 3)
        torch.cuda.empty_cache()


@workload
def own_pool(server: Server) -> None:
    """Static caches in a pool of their own; the default pools serve the rest."""
    model = server.model()
    pool = torch.cuda.MemPool()
    for batch, longest in server.batches(4, most=6, longest=600):
        with torch.cuda.use_mem_pool(pool):
            cache = StaticCache(config=model.config, max_cache_len=longest + 4)
            cache.early_initialization(
                batch, server.kv_heads, server.hidden // 16, torch.float16, torch.device("cuda:0")
            )
        server.generate(model, batch, longest, 3, past_key_values=cache)
        del cache


@workload
def graphs(server: Server) -> None:
    """Decoding captured once for each batch size, prompts without; all captures in one pool."""
    model = server.model()
    captured: dict[int, Any] = {}
    pool = torch.cuda.graph_pool_handle()
    with torch.no_grad():
        for batch in (8, 4, 2, 1):
            cache = StaticCache(config=model.config, max_cache_len=600)
            cache.early_initialization(
                batch, server.kv_heads, server.hidden // 16, torch.float16, torch.device("cuda:0")
            )
            token = torch.zeros(batch, 1, dtype=torch.long, device="cuda:0")
            position = torch.zeros(batch, 1, dtype=torch.long, device="cuda:0")
            mask = torch.zeros(batch, 1, 1, 600, dtype=torch.float16, device="cuda:0")

            def step(
                token: Any = token, position: Any = position, mask: Any = mask, cache: Any = cache
            ) -> Any:
                return model(
                    input_ids=token, position_ids=position, attention_mask=mask, past_key_values=cache
                ).logits

            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = step()
            captured[batch] = (graph, cache, token, position, mask, logits)
        for batch, longest in server.batches(6, longest=500):
            size = next(one for one in (1, 2, 4, 8) if one >= batch)
            graph, cache, *_, logits = captured[size]
            prompt = torch.zeros(size, longest, dtype=torch.long, device="cuda:0")
            model(input_ids=prompt, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
            for _ in range(3):
                graph.replay()
                logits.argmax(-1)
