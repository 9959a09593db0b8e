"""GPUs that are none: tensors sent to one stay in memory, but meeting one from elsewhere is an error, as on a real one.

`PretendedCuda` stands for `torch.cuda` beside it: current devices and streams, graphs that replay what they captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
SECOND = torch.device("cuda", 1)
_MARK = "_pretended_device"
_MADE_ON_THE_CPU = (torch.tensor, torch.as_tensor)


class PretendedGPU(TorchFunctionMode):
    """Within it, `GPU` and `SECOND` work as devices: `to`, `device=` and `cpu` move tensors, no function mixes devices.

    A number on the CPU may meet anything, as in torch.

    transfers: names of the functions that sent something from the CPU to a GPU or back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transfers: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, kwargs)))
        here = {device_of(tensor) for tensor in tensors if tensor.dim()}
        if len(here) > 1 and func is not Tensor.to:
            places = sorted("the CPU" if device == CPU else str(device) for device in here)
            raise AssertionError(f"{getattr(func, '__name__', func)}: tensors on {' and on '.join(places)}")
        if func == Tensor.device.__get__:
            return device_of(args[0]) if is_there(args[0]) else func(*args)
        of = next((device_of(tensor) for tensor in tensors if is_there(tensor)), CPU)
        to = of
        if func is Tensor.cpu:
            to = CPU
        elif kwargs.get("device") is not None:
            to = _device(kwargs.pop("device"))
        elif func is Tensor.to and isinstance(args[1], str | torch.device):
            to, args = _device(args[1]), (args[0], "cpu", *args[2:])
        moved = to != of
        if moved and (tensors or func in _MADE_ON_THE_CPU):
            self.transfers.append(func.__name__)
        result = func(*args, **kwargs)
        # What is moved is another tensor than the one that stays.
        return _marked(result.clone() if moved and tensors else result, to)


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is, or pretends to be."""
    return getattr(tensor, _MARK, CPU)


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor is on a pretended GPU."""
    return device_of(tensor) != CPU


def send(module: nn.Module, device: torch.device = GPU) -> nn.Module:
    """Move a module there, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        setattr(tensor, _MARK, device)
    return module


def _device(name: str | torch.device) -> torch.device:
    device = torch.device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _marked(value: Any, device: torch.device) -> Any:
    for tensor in _tensors(value):
        setattr(tensor, _MARK, device)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


@dataclass(eq=False)
class Stream:
    """A stream of a device."""

    device: torch.device

    def wait_stream(self, other: Stream) -> None:
        """Streams of two devices do not meet here."""
        assert other.device == self.device


@dataclass
class Graph:
    """What ran on the current device during a capture: it runs again, into the same tensors, at a replay."""

    cuda: PretendedCuda
    recorded: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)

    def replay(self) -> None:
        """Run it again."""
        self.cuda.events.append(("replay", self.cuda.current))
        with torch._C.DisableTorchFunction():
            for func, args, kwargs, outputs in self.recorded:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(outputs), _tensors(again), strict=True):
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.recorded, self.is_empty = device, [], True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.recorded.append((func, args, kwargs or {}, result))
        self.is_empty &= all(device_of(tensor) != self.device for tensor in _tensors((args, kwargs)))
        return result


class PretendedCuda:
    """`torch.cuda` with two devices, the first of them current.

    events: ("capture", device, pool, stream, mode), ("replay", device) and ("set_device", device), in order.
    pools: how many were asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.events, self.pools = GPU, [], 0
        self._streams = {device: Stream(device) for device in (GPU, SECOND)}
        for name in ("device", "stream", "graph", "set_device", "graph_pool_handle", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(self.current))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)

    def set_device(self, device: str | torch.device) -> None:
        """Make it the current device."""
        self.current = _device(device)
        self.events.append(("set_device", self.current))

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        """Within it, a device is the current one."""
        before, self.current = self.current, _device(device)
        yield
        self.current = before

    def current_stream(self) -> Stream:
        """The stream that work goes to."""
        return self._streams[self.current]

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """Within it, a stream and its device are the current ones."""
        with self.device(stream.device):
            before, self._streams[self.current] = self._streams[self.current], stream
            yield
            self._streams[self.current] = before

    def graph_pool_handle(self) -> tuple[int, int]:
        """A new pool."""
        self.pools += 1
        return 0, self.pools

    @contextmanager
    def graph(
        self, graph: Graph, pool: object = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        """Capture what runs on the device of the stream; torch's own stream is of the first device that was used."""
        stream = stream or Stream(GPU)
        self.events.append(("capture", stream.device, pool, stream, capture_error_mode))
        with self.stream(stream), _Recorder(stream.device) as recorder:
            yield
        if recorder.is_empty:
            warnings.warn(
                "The CUDA Graph is empty. This usually means that the graph was attempted to be captured on wrong "
                "device or stream.",
                stacklevel=2,
            )
        else:
            graph.recorded = recorder.recorded
