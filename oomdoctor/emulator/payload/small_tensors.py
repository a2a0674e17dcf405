"""Makes small tensors right in a rehearsed process, where kernels do nothing.

Programs read values back from the device: ``generate()`` looks at tokens, masks, lengths and positions to
decide what to do next. Device memory is host memory there, so an operation whose tensors are all small runs
natively, for its allocations, and is then computed on the CPU and written into place. What is too large to
compute is left alone, and where it gives a small result (logits from a large matrix) the result is
filled with numbers that mean nothing but are well formed: finite floats, indices in range.

Loaded by path into the rehearsed process, right after torch; standard library and torch only.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from typing import Any, Sequence  # noqa: UP035 (Python 3.8)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Counters, masks and token ids are what control flow depends on, and are cheap: they may be larger than
# floats.
SMALL_FLOAT_BYTES = 128 << 10
SMALL_INTEGER_BYTES = 16 << 20
POOL_ELEMENTS = 64 << 10

# device_base and device_span_limit of device/state.c: where all devices' memory lies.
DEVICE_BASE = 16 << 40
DEVICE_SPAN = 64 << 40

# Their integer results are positions along a dimension.
INDEX_OPS = frozenset(
    {
        "argmax",
        "argmin",
        "argsort",
        "sort",
        "topk",
        "max",
        "min",
        "kthvalue",
        "median",
        "nanmedian",
        "mode",
        "multinomial",
        "cummax",
        "cummin",
    }
)
# Their kernels count before they allocate (torch.Tag.dynamic_output_shape).
COUNTING_OPS = frozenset(
    {
        "nonzero",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
    }
)
# They call nonzero themselves where an index is a mask.
INDEXING_OPS = frozenset(
    {
        "index",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "_unsafe_index",
        "_unsafe_index_put",
    }
)
# They move no data, whatever their schema says.
MOVES_NOTHING = frozenset(
    {
        "_unsafe_view",
        "set_",
        "resize_",
        "detach",
        "record_stream",
        "_reshape_alias",
        "lift_fresh",
        "new_empty",
        "new_empty_strided",
        "empty",
        "empty_strided",
        "empty_like",
        "empty_permuted",
        "_local_scalar_dense",
    }
)

# Subclasses of PyTorch's own that have no memory, or that a mode below this one deals with.
FAKES = frozenset({"FakeTensor", "FunctionalTensor"})
# Since torch 2.1.
_FAKE = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "FAKE", None)
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_OWN_DISPATCH = (None, torch._C._disabled_torch_dispatch_impl, torch.Tensor.__torch_dispatch__)


def install(_torch: Any = torch) -> None:
    """Turn it on when CUDA initializes, for the thread that does so and every thread started later."""
    active = threading.local()
    started = threading.Event()

    def enter() -> None:
        if not hasattr(active, "mode"):
            active.mode = SmallTensors()
            active.mode.__enter__()

    def start() -> None:
        started.set()
        enter()

    torch.cuda._lazy_call(start)
    # cuDNN answers with plans that cannot be made up; PyTorch's own kernels serve where it is off.
    torch.backends.cudnn.enabled = False
    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
        torch.backends.cuda.enable_cudnn_sdp(False)

    torch._tensor_str._str = _str
    compile_ = getattr(torch, "compile", None)
    if compile_ is not None:
        torch.compile = _say_uncompiled(compile_)

    # A dispatch mode belongs to a thread. Autograd's own threads inherit it; Python's do not.
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def _bootstrap_inner(self: threading.Thread) -> None:
        if started.is_set():
            enter()
        bootstrap(self)

    threading.Thread._bootstrap_inner = _bootstrap_inner  # type: ignore[attr-defined]


_str_without_modes = torch._tensor_str._str


def _str(self: Any, *, tensor_contents: Any = None) -> Any:
    """What repr() calls: it switches dispatch modes off, and would then read what no kernel wrote."""
    if type(self) in (torch.Tensor, torch.nn.Parameter) and self.is_cuda and not _fake_mode_is_active():
        with torch.no_grad():
            return torch._tensor_str._str_intern(self, tensor_contents=tensor_contents)
    return _str_without_modes(self, tensor_contents=tensor_contents)


def _say_uncompiled(compile_: Any) -> Any:
    """torch.compile, switched off by TORCHDYNAMO_DISABLE in a rehearsal, saying so once."""
    said: list[bool] = []

    @functools.wraps(compile_)
    def compile(*args: Any, **kwargs: Any) -> Any:
        if not said:
            said.append(True)
            note = "torch.compile is not emulated: what it should compile runs uncompiled"
            sys.stderr.write(f"oomdoctor: emulated device: {note}\n")
        return compile_(*args, **kwargs)

    return compile


class HostView:
    """Device memory as CPU tensors: one tensor a data type spans all devices, and views are cut from it."""

    def __init__(self) -> None:
        # Its own, so that the program's generators are where they would be.
        self.generator = torch.Generator()
        self.generator.manual_seed(0)
        self.array = (ctypes.c_char * DEVICE_SPAN).from_address(DEVICE_BASE)  # the tensor does not own it
        self.bytes = torch.frombuffer(self.array, dtype=torch.uint8)
        self.spans: dict[Any, Any] = {}
        self.pool: Any = None
        self.used = 0

    def view(self, tensor: Any) -> Any:
        """The same elements as a CPU tensor."""
        if tensor.numel() == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        span = self.spans.get(tensor.dtype)
        if span is None:
            span = self.spans[tensor.dtype] = self.bytes.view(tensor.dtype)
        offset, rest = divmod(tensor.data_ptr() - DEVICE_BASE, tensor.element_size())
        if rest:
            raise ValueError("not aligned to its element size")
        view = span.as_strided(tensor.shape, tensor.stride(), offset)
        # Conjugation and negation may be pending, as flags of the tensor.
        view = view.conj() if tensor.is_conj() else view
        return torch._neg_view(view) if tensor.is_neg() else view

    def to_host(self, value: Any) -> Any:
        """An argument, with what is on a device replaced by what it is on the host."""
        if isinstance(value, torch.Tensor):
            return self.view(value) if value.is_cuda else value
        if type(value) is torch.device and value.type == "cuda":
            return torch.device("cpu")
        if type(value) in (list, tuple):
            return [self.to_host(item) for item in value]
        if isinstance(value, torch.Generator) and value.device.type == "cuda":
            return self.generator
        return value

    def _draw(self, count: int) -> Any:
        if self.pool is None:
            self.pool = torch.rand(2 * POOL_ELEMENTS, generator=self.generator)
        if count > POOL_ELEMENTS:
            return torch.rand(count, generator=self.generator)
        self.used = (self.used + 7919) % POOL_ELEMENTS
        return self.pool[self.used : self.used + count]

    def numbers(self, count: int, dtype: Any) -> Any:
        """``count`` finite numbers between -1 and 1."""
        return (self._draw(count) * 2 - 1).to(dtype)

    def indices(self, count: int, length: int) -> Any:
        """``count`` integers from 0 to ``length`` - 1."""
        return (self._draw(count) * length).to(torch.int64).clamp_(max=length - 1)


class Plan:
    """What there is to know of an operator, once."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        namespace, name = schema.name.split("::")
        self.composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)
        self.counts = name in COUNTING_OPS
        self.indexing = name in INDEXING_OPS
        self.gives_indices = name in INDEX_OPS
        self.dim = next((i for i, argument in enumerate(schema.arguments) if argument.name == "dim"), None)
        self.takes_generator = any(argument.name == "generator" for argument in schema.arguments)
        random = getattr(torch.Tag, "nondeterministic_seeded", None)
        self.draws = random in func.tags and not self.takes_generator
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        is_view = any(r.alias_info is not None for r in schema.returns) and not writes
        is_view |= getattr(torch.Tag, "inplace_view", None) in func.tags
        # Operators of extensions may do anything; they run natively, or say that they cannot.
        self.native_only = is_view or name in MOVES_NOTHING or namespace != "aten"
        self.gives_tensors = not schema.returns or any("Tensor" in str(r.type) for r in schema.returns)


class SmallTensors(TorchDispatchMode):
    """Sees every operation below autograd, on this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.host = HostView()
        self.plans: dict[Any, Plan] = {}
        self.answer = ctypes.CDLL(None).oomdoctor_answer
        self.answer.argtypes = (ctypes.c_int64, ctypes.c_int)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch (2.10 and later) puts two more frames into every recorded stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _fake_mode_is_active():
            return func(*args, **kwargs)  # shapes are being worked out; it sits below this mode
        for kind in types:
            # A subclass that dispatches by itself (DTensor) goes first; what it calls comes back here.
            if kind is not torch.Tensor and getattr(kind, "__torch_dispatch__", None) not in _OWN_DISPATCH:
                return func(*args, **kwargs) if kind.__name__ in FAKES else NotImplemented
        plan = self.plans.get(func)
        if plan is None:
            plan = self.plans[func] = Plan(func)
        if plan.composite:
            # In inference mode composite operators arrive whole; taken apart, their parts come here singly.
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        if plan.native_only:
            return func(*args, **kwargs)
        tensors, on_device = _tensors_of((*args, *kwargs.values()))
        if not on_device:
            return func(*args, **kwargs)
        if plan.indexing:
            args = (args[0], self._without_masks(args[1]), *args[2:])
            tensors, _ = _tensors_of(args)
        small = all(map(_is_small, tensors))
        if plan.counts:
            return self._counting(func, args, kwargs, small)
        result = func(*args, **kwargs)
        outputs = [t for t in _flat(result) if t.is_cuda]
        if not small or not all(map(_is_small, outputs)):
            self._fill(plan, args, [t for t in outputs if _is_small(t)])
            return result
        try:
            computed = self._compute(func, plan, args, kwargs)
        except Exception:  # no CPU kernel, or values that mean nothing: an index out of range
            self._fill(plan, args, outputs)
            return result
        if not plan.gives_tensors:
            return computed
        for output, value in zip(_flat(result), _flat(computed)):
            # A result on the host is wrong too where a kernel had to make the source contiguous first.
            there = self.host.to_host(output)
            if there.data_ptr() != value.data_ptr() and there.shape == value.shape:
                there.copy_(value)
        return result

    def _compute(self, func: Any, plan: Plan, args: Any, kwargs: Any) -> Any:
        """The operation on host views of its tensors; what it writes into lands in device memory."""
        args = self.host.to_host(args)
        kwargs = {name: self.host.to_host(value) for name, value in kwargs.items()}
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if plan.takes_generator:
            kwargs["generator"] = self.host.generator
        if not plan.draws:
            return func(*args, **kwargs)
        before = torch.get_rng_state()
        try:
            return func(*args, **kwargs)
        finally:
            torch.set_rng_state(before)

    def _without_masks(self, given: Sequence[Any]) -> list[Any]:
        """Boolean indices as integers, as ATen makes them (expandTensors, ATen/native/IndexingUtils.h)."""
        indices: list[Any] = []
        for index in given:
            if index is not None and index.is_cuda and index.dtype in (torch.bool, torch.uint8):
                with self:
                    found = torch.ops.aten.nonzero.default(index)
                    indices.extend(found.select(1, dim) for dim in range(index.dim()))
            else:
                indices.append(index)
        return indices

    def _counting(self, func: Any, args: Any, kwargs: Any, small: bool) -> Any:
        """Computed first, so that the native operation allocates for the right count."""
        computed, count = None, 0
        if small:
            try:
                host_kwargs = {name: self.host.to_host(value) for name, value in kwargs.items()}
                computed = func(*self.host.to_host(args), **host_kwargs)
                count = _flat(computed)[0].shape[0]
            except Exception:
                computed = None
        self.answer(count, 1)
        try:
            result = func(*args, **kwargs)
        finally:
            self.answer(0, 0)
        if computed is None:
            return result
        outputs, values = _flat(result), _flat(computed)
        if any(output.shape != value.shape for output, value in zip(outputs, values)):
            made = [value.to(args[0].device) for value in values]
            return made[0] if isinstance(result, torch.Tensor) else tuple(made)
        for output, value in zip(outputs, values):
            if output.numel():
                self.host.view(output).copy_(value)
        return result

    def _fill(self, plan: Plan, args: Any, outputs: Sequence[Any]) -> None:
        """Well-formed numbers where no value can be known."""
        for output in outputs:
            if not output.numel():
                continue
            there = self.host.view(output)
            if output.is_floating_point() and output.element_size() > 1:
                there.copy_(self.host.numbers(output.numel(), output.dtype).view(output.shape))
            elif plan.gives_indices and isinstance(args[0], torch.Tensor) and args[0].dim():
                there.copy_(self.host.indices(output.numel(), _index_range(plan, args)).view(output.shape))
            else:
                there.zero_()


def _fake_mode_is_active() -> bool:
    return _FAKE is not None and torch._C._get_dispatch_mode(_FAKE) is not None


def _index_range(plan: Plan, args: Any) -> Any:
    """How long the dimension is that an operator of INDEX_OPS gives positions along."""
    source = args[0]
    if plan.dim is None:  # multinomial: along the last; median, min, max without a dimension: over all
        return max(source.shape[-1], 1)
    dim = args[plan.dim] if plan.dim < len(args) else -1
    return max(source.numel() if dim is None else source.shape[dim if type(dim) is int else -1], 1)


def _tensors_of(values: Sequence[Any]) -> tuple[list[Any], bool]:
    """The tensors among an operator's arguments, and whether it works on a CUDA device."""
    tensors: list[Any] = []
    on_device = False
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            on_device |= value.is_cuda
        elif type(value) is torch.device:
            on_device |= value.type == "cuda"
        elif type(value) in (list, tuple):
            for item in value:
                if isinstance(item, torch.Tensor):
                    tensors.append(item)
                    on_device |= item.is_cuda
    return tensors, on_device


def _flat(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [item for item in value if isinstance(item, torch.Tensor)]
    return []


def _is_small(tensor: Any) -> bool:
    if tensor.layout is not torch.strided:
        return False
    real = tensor.is_floating_point() or tensor.is_complex()
    bound = SMALL_FLOAT_BYTES if real else SMALL_INTEGER_BYTES
    return bool(tensor.numel() * tensor.element_size() <= bound)
