"""Small tensors are right although kernels do nothing; what a program decides by them comes out as on a device."""

from __future__ import annotations

from typing import Any

import pytest

from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.units import GIB

from .conftest import RunOnDevices

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def values(on_devices: RunOnDevices) -> dict[str, Any]:
    return on_devices(
        """
        cuda = torch.device("cuda")
        a = torch.arange(10, device=cuda)
        mask = a % 2 == 0
        tell(arange=a.tolist(), nonzero=mask.nonzero().flatten().tolist(), masked=a[mask].tolist(),
             selected=a.masked_select(mask).tolist(), all=bool((a == a).all()), equal=torch.equal(a, a.clone()))
        b = a.clone(); b[mask] = 7
        tell(assigned=b.tolist(), unique=torch.unique(b).tolist())
        tell(counts=torch.unique(b, return_counts=True)[1].tolist())
        c = torch.cat([a, a]).cumsum(0)
        tell(last=c[-1].item(), where=torch.where(a > 5)[0].tolist())
        tell(view=a.view(2, 5).t().contiguous().tolist()[1])
        copy = torch.full((3,), 4.5).to(cuda, torch.bfloat16)
        tell(copy=copy.tolist(), back=copy.cpu().float().tolist(), other=copy.to("cuda:1").tolist())
        with torch.inference_mode():
            w = torch.eye(4, device=cuda) * 3
            tell(linear=torch.nn.functional.linear(w, w).tolist()[2])
        g = torch.Generator(device=cuda); g.manual_seed(5)
        r = torch.rand(1000, device=cuda, generator=g)
        tell(random=[r.min().item() >= 0, r.max().item() <= 1, r.std().item() > 0.2])
        state = torch.get_rng_state()
        torch.nn.functional.dropout(torch.ones(100, device=cuda))
        tell(own_generator_kept=torch.equal(state, torch.get_rng_state()))
        x = torch.ones(3, device=cuda, requires_grad=True)
        (x * x).sum().backward()
        tell(gradient=x.grad.tolist())
        import threading
        def work():
            tell(thread=(torch.arange(3, device=cuda) * 2).tolist())
        t = threading.Thread(target=work); t.start(); t.join()
        big = torch.zeros(1 << 26, device=cuda)
        logits = big.view(8, -1)[:, :32000].float() @ torch.zeros(32000, 32000, device=cuda)
        choice = logits.argmax(-1)
        tell(choice=choice.tolist(), finite=bool(logits[0, :100].isfinite().all()),
             top=torch.topk(big, 5).indices.tolist())
        tell(memset=torch.zeros(5, dtype=torch.long, device=cuda).tolist())
        i = torch.tensor([[1, 2], [3, 4]], device=cuda)
        tell(matrix=[i.sum(0).tolist(), i.max(1).values.tolist(), i.T.tolist(), i.flip(0).tolist()])
        s = torch.arange(6, device=cuda).view(2, 3)[:, 1:]
        s.add_(10)
        tell(strided=s.tolist(), printed=str(torch.arange(3., device=cuda) / 2), edges=str(torch.arange(5000, device=cuda)))
        from torch._subclasses.fake_tensor import FakeTensorMode
        with FakeTensorMode():
            fake = torch.empty(4, 4, device="cuda").sum(0)
        tell(fake=[list(fake.shape), type(fake).__name__])
        if hasattr(torch, "compile"):
            tell(compiled=torch.compile(lambda t: (t * 2).sum())(torch.arange(5, device=cuda)).item())
        """
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arange", list(range(10))),
        ("nonzero", [0, 2, 4, 6, 8]),
        ("masked", [0, 2, 4, 6, 8]),
        ("selected", [0, 2, 4, 6, 8]),
        ("all", True),
        ("equal", True),
        ("assigned", [7, 1, 7, 3, 7, 5, 7, 7, 7, 9]),
        ("unique", [1, 3, 5, 7, 9]),
        ("counts", [1, 1, 1, 6, 1]),
        ("last", 90),
        ("where", [6, 7, 8, 9]),
        ("view", [1, 6]),
        ("copy", [4.5] * 3),
        ("back", [4.5] * 3),
        ("other", [4.5] * 3),
        ("linear", [0, 0, 9, 0]),
        ("random", [True, True, True]),
        ("own_generator_kept", True),
        ("gradient", [2, 2, 2]),
        ("thread", [0, 2, 4]),
        ("memset", [0] * 5),
        ("matrix", [[4, 6], [2, 4], [[1, 3], [2, 4]], [[3, 4], [1, 2]]]),
        ("strided", [[11, 12], [14, 15]]),
        ("printed", "tensor([0.0000, 0.5000, 1.0000], device='cuda:0')"),
        ("edges", "tensor([   0,    1,    2,  ..., 4997, 4998, 4999], device='cuda:0')"),
        ("fake", [[4], "FakeTensor"]),
        ("compiled", 20),
    ],
)
def test_value(values: dict[str, Any], name: str, value: Any) -> None:
    assert values[name] == value


def test_what_is_not_computed_is_well_formed(values: dict[str, Any]) -> None:
    assert values["finite"]
    assert all(0 <= index < 32000 for index in values["choice"])
    assert len(set(values["choice"])) > 1  # not all the same token, which might be the one that ends a text
    assert all(0 <= index < 1 << 26 for index in values["top"])


def test_what_is_not_compiled_is_said(values: dict[str, Any]) -> None:
    assert values["stderr"].count("torch.compile is not emulated") == 1


def test_without_it_values_mean_nothing(on_devices: RunOnDevices) -> None:
    """What the dispatch mode is for, seen without it."""
    told = on_devices("tell(values=torch.arange(1, 10, device='cuda').tolist())", payload=False)
    assert told["values"] == [0] * 9


GENERATE = """
import importlib.util
if importlib.util.find_spec("transformers") is None:
    print("TOLD", json.dumps({"missing": "transformers"})); sys.exit()
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
                     vocab_size=32000)
torch.set_default_dtype(torch.float16)
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval().to("cuda")
torch.cuda.memory._record_memory_history(stacks="python")
tokens = torch.randint(3, 32000, (3, 40), device="cuda")
mask = torch.ones_like(tokens)
mask[1, :13] = 0
lengths = []
for options in ({}, {"do_sample": True, "top_k": 20}, {"num_beams": 2}):
    answer = model.generate(tokens, attention_mask=mask, max_new_tokens=17, pad_token_id=0, **options)
    lengths.append(answer.shape[1] - tokens.shape[1])
trace = torch.cuda.memory._snapshot()["device_traces"][0]
import hashlib
events = [(e["action"], e.get("addr"), e["size"], e.get("stream")) for e in trace]
tell(lengths=lengths, events=len(events), digest=hashlib.sha256(repr(events).encode()).hexdigest())
# Padded on the right: the positions that the attention sees are those of a device.
mask = torch.ones_like(tokens); mask[1, 30:] = 0
import inspect
from transformers.masking_utils import create_causal_mask
names = inspect.signature(create_causal_mask).parameters
embeds = torch.zeros(3, 40, 256, device="cuda")
given = dict(config=model.config, inputs_embeds=embeds, input_embeds=embeds, attention_mask=mask,
             past_key_values=None, cache_position=torch.arange(40, device="cuda"))
model.config._attn_implementation = "sdpa"
given = {name: value for name, value in given.items() if name in names}
full = create_causal_mask(**{**given, "attention_mask": torch.ones_like(tokens)})
padded = create_causal_mask(**given)
tell(full=full is None, padded=None if padded is None else [list(padded.shape), int(padded[1, 0, 35].sum())])
"""


def test_generate_makes_as_many_tokens_as_asked_and_the_same_events_twice(on_devices: RunOnDevices) -> None:
    one, two = (on_devices(GENERATE, devices=EmulatedDevices((8 * GIB,))) for _ in range(2))
    if one.get("missing"):
        pytest.skip("this torch's environment has no transformers")
    assert one["lengths"] == [17, 17, 17]
    assert one["events"] > 1000
    assert one["digest"] == two["digest"]
    assert one["full"] is True  # nothing is masked: transformers drops the mask, as it does on a device
    assert one["padded"] == [[3, 1, 40, 40], 30]
