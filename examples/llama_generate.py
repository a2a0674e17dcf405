"""A plain inference script with nothing of oomdoctor in it: greedy decoding by a model of Llama-2-7B's shape.

Layers are spread over the visible devices. Weights are random, since only their sizes matter here. Requests
of varied batch and prompt length are answered one after the other, as a server would, until all are done or
memory runs out.
"""

import argparse
import random

import torch
from accelerate import dispatch_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def build_model(layers, devices):
    """The model in half precision, its parts on their devices from the start."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        vocab_size=32000,
        max_position_embeddings=4096,
    )
    place = {f"model.layers.{i}": devices[i * len(devices) // layers] for i in range(layers)}
    place.update({"model.embed_tokens": devices[0], "model.rotary_emb": devices[0]})
    place.update({"model.norm": devices[-1], "lm_head": devices[-1]})
    torch.set_default_dtype(torch.float16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for name, device in place.items():
        part = model.get_submodule(name)
        part.to_empty(device=device)
        for weight in part.parameters():
            torch.nn.init.normal_(weight, std=0.02)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(devices[0])
    return dispatch_model(model.eval(), place)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--max-prompt", type=int, default=1500)
    parser.add_argument("--max-batch", type=int, default=6)
    parser.add_argument("--loop", action="store_true", help="decode in a loop here, not by generate()")
    parser.add_argument("--seed", type=int, default=7, help="of the requests")
    parser.add_argument("--gib", type=float, help="do as if the devices had no more than this together")
    options = parser.parse_args()

    devices = list(range(torch.cuda.device_count()))
    if options.gib:
        for device in devices:
            total = torch.cuda.get_device_properties(device).total_memory
            share = options.gib * 2**30 / len(devices) / total
            torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    model = build_model(options.layers, devices)
    chance = random.Random(options.seed)
    for request in range(options.requests):
        batch = chance.randint(1, options.max_batch)
        longest = chance.randint(100, options.max_prompt)
        tokens = torch.zeros(batch, longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row in range(batch):  # padded on the left, as a batch of prompts is
            length = longest if row == 0 else chance.randint(50, longest)
            tokens[row, -length:] = torch.randint(3, 32000, (length,))
            mask[row, -length:] = 1
        print(f"request {request}: {batch} prompts of up to {longest} tokens", flush=True)
        ids, seen = tokens.to(devices[0]), mask.to(devices[0])
        if not options.loop:
            answer = model.generate(
                ids,
                attention_mask=seen,
                max_new_tokens=options.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
            assert answer.shape[1] <= longest + options.new_tokens
            continue
        # As scripts often do it: logits are made of every token of the prompt, and what the last request
        # used (out) is kept until the next one has its own.
        cache = None
        with torch.no_grad():
            for _ in range(options.new_tokens):
                out = model(ids, attention_mask=seen, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                ids = out.logits[:, -1].argmax(-1, keepdim=True)
                seen = torch.cat([seen, torch.ones_like(ids)], 1)
    print("all requests answered")


if __name__ == "__main__":
    main()
