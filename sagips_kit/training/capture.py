"""Parts of a step that are recorded once and then repeated by the device, without Python and single launches.

A part is a function without arguments that works on the device alone and on the same memory in every step: what
changes from step to step is in tensors there.  What a step consists of belongs to the trainer.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..events.ahead import Ahead
from .settings import Settings

if TYPE_CHECKING:
    from .gan import GAN

_N_WARM = 3  # steps before the first recording, in which memory is reserved and optimisers make their state

T = TypeVar("T")


class Recorder(Protocol):
    """Records the work of a function on the device."""

    def stream(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which work that belongs together is launched."""
        ...

    def record(self, part: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """A function that repeats the work of a part, which is not done yet, and what the part returns."""
        ...

    def forget(self) -> None:
        """Take note that what has been recorded so far is repeated no more."""
        ...


class CudaGraphs:
    """Records with CUDA graphs, which share their memory because they are repeated in the order of recording.

    Parameters
    ----------
    device : torch.device
        A GPU of NVIDIA or AMD.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream, self._pool = device, torch.cuda.Stream(device), None

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        outer = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            yield
        outer.wait_stream(self._stream)

    def record(self, part: Callable[[], T]) -> tuple[Callable[[], None], T]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = part()
        self._pool = graph.pool()
        return graph.replay, result

    def forget(self) -> None:
        self._pool = None  # PyTorch refuses the memory of graphs that are all gone


class Repeated:
    """The parts of a step, which are recorded if there is a recorder.

    Parameters
    ----------
    recorder : Recorder or None
        None runs all parts as they are.

    Attributes
    ----------
    is_recording : bool
        Whether parts are, or will be, recorded.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder, self._n_calls = recorder, dict[str, int]()
        self._recorded: dict[str, tuple[Callable[[], None], Any]] = {}

    @property
    def is_recording(self) -> bool:
        return self._recorder is not None

    def stream(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a step."""
        return contextlib.nullcontext() if self._recorder is None else self._recorder.stream()

    def __call__(self, name: str, part: Callable[[], T]) -> T:
        """Do a part of the step; what it returns is in the same memory in each step once it is recorded.

        Warns
        -----
        UserWarning
            If it cannot be recorded; from then on, parts run as they are.
        """
        n_calls = self._n_calls.get(name, 0)
        self._n_calls[name] = n_calls + 1
        if self._recorder is None or n_calls < _N_WARM:
            return part()
        if name not in self._recorded:
            try:
                self._recorded[name] = self._recorder.record(part)
            except Exception as error:  # of any type: from PyTorch, or from a function of the user
                self._recorder = None
                warnings.warn(
                    f"The training step is not captured, which makes it slower: {type(error).__name__}: {error}. Look "
                    "for operations of `simulate`, `features` or `constraints` that need the host, such as .item(), "
                    'boolean masks, or tensors made from lists; or set Settings(capture="off").',
                    stacklevel=2,
                )
                return part()
        repeat, result = self._recorded[name]
        repeat()
        return result

    def forget(self) -> None:
        """Record anew, as after the memory of a part has moved."""
        self._recorded.clear()
        self._n_calls.clear()
        if self._recorder is not None:
            self._recorder.forget()


class Dials:
    """The numbers of a step that follow schedules, in tensors on the device from which recorded steps read them.

    Parameters
    ----------
    gan : GAN
        Whose numbers they are.
    values : callable
        What `GAN.values` gives for the number of a step.
    device : torch.device
        Where they are needed.
    """

    def __init__(self, gan: "GAN", values: Callable[[int], Sequence[float]], device: torch.device) -> None:
        self._gan, self._first = gan, 0
        self._values = torch.zeros(len(values(0)), device=device)

        def make(steps: Tensor) -> list[Tensor]:
            return [torch.tensor([values(self._first + k) for k in range(len(steps))], device=device)]

        self._ahead = Ahead(make, len(self._values), device)
        self.connect()

    def connect(self) -> None:
        """Let networks and optimisers read them, also after the state of these has been restored."""
        self._gan.take_values_from(self._values)

    def prepare(self, step: int) -> None:
        """Make sure that `read` gives what belongs to a step: from time to time, one small copy to the device."""
        self._first = step
        self._ahead.prepare(step)

    def read(self) -> None:
        """Take over what belongs to the step that was prepared; on the device."""
        self._values.copy_(self._ahead.take()[0])


def recorder_for(settings: Settings, device: torch.device, reads_windows: bool) -> Recorder | None:
    """What records the steps of a run, or None.

    Raises
    ------
    ValueError
        If `settings.capture` is "on", and steps cannot be recorded.
    """
    reason = None
    if device.type != "cuda":
        reason = f"the device is {str(device)!r}, and only GPUs of NVIDIA and AMD record steps"
    elif reads_windows:
        reason = "events are read from a file during training"
    if settings.capture == "on" and reason:
        raise ValueError(f'capture = "on": {reason}. Type Settings(capture="auto").')
    return None if reason or settings.capture == "off" else CudaGraphs(device)
