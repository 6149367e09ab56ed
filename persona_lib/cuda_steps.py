"""Decoding steps whose tensors keep their addresses, replayed as CUDA graphs.

At small model sizes the processor needs several times as long to start the kernels
of a step as the device needs to run them. A captured graph starts all of them at
once. A step then reads and writes the same tensors each time: the cache's whole room
with a mask over what is not filled, and positions that count on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from persona_lib.drawing import draw_unchecked
from persona_lib.profile import SampleSpec

if TYPE_CHECKING:
    from persona_lib.decoding import Rows

_LOG = logging.getLogger(__name__)
_WORTH = 4
"""Fewest steps left in a go for which a graph is captured."""


class GraphSteps:
    """Advances rows by steps of fixed addresses; captures them on a GPU.

    Rows that were dropped and room that was moved change addresses: the next step
    then runs by itself, which warms up what a capture must not start, and the one
    after it is captured. Where a capture fails, steps go on by themselves.

    Args:
        rows: what is advanced; every layer of their cache must grow by blocks.
        spec: how tokens are drawn.
    """

    def __init__(self, rows: Rows, spec: SampleSpec) -> None:
        self._rows = rows
        self._spec = spec
        self._generation = -1
        self._graph: Any = None
        self._outdated: Any = None
        self._warm = False
        self._capture = rows.written.device.type == "cuda"
        self.captures = 0
        self._last = self._positions = self._column = self._cursor = self._seen = rows.written

    def __call__(self, steps: int) -> None:
        """Read and draw `steps` times."""
        rows = self._rows
        with _any_kernel():
            self._settle(steps)
            try:
                for done in range(steps):
                    if self._graph is None and self._warm and steps - done >= _WORTH:
                        self._try_capture()
                    if self._graph is not None:
                        self._graph.replay()
                    else:
                        self._step()
                        self._warm = True
            finally:
                for layer in rows.cache.layers:
                    layer.cursor = None
                    layer.show(layer.filled + steps)
            rows.steps += steps

    def _settle(self, steps: int) -> None:
        """Make room, and set up the tensors that count, where addresses have changed."""
        import torch

        rows, layers = self._rows, self._rows.cache.layers
        filled = layers[0].filled
        moved = [layer.reserve(filled + steps) for layer in layers]
        if any(moved) or rows.generation != self._generation:
            # The old graph is let go after the next capture, which takes over its memory.
            self._outdated = self._graph or self._outdated
            self._graph, self._warm, self._generation = None, False, rows.generation
            device = rows.written.device
            self._last = rows.written[:, rows.steps - 1 : rows.steps].clone()
            self._positions = rows.lengths + (rows.steps - 1)
            self._column = torch.tensor([rows.steps], device=device)
            self._cursor = torch.tensor([filled], device=device)
            room = layers[0].room[0].shape[2]
            self._seen = torch.zeros(len(rows.index), room, dtype=torch.bool, device=device)
            self._seen[:, :filled] = rows.mask[:, :filled]
        for layer in layers:
            layer.cursor = self._cursor

    def _step(self) -> None:
        """Read the last token and draw the next, with nothing but fixed addresses."""
        rows = self._rows
        self._seen.index_fill_(1, self._cursor, True)
        logits = rows.forward(self._last, self._seen[:, None, None], self._positions)
        uniforms = rows.draws.index_select(1, self._column).squeeze(1)
        chosen, sound = draw_unchecked(logits, uniforms, self._spec)
        rows.written.index_copy_(1, self._column, chosen.unsqueeze(1))
        rows.running.logical_and_(chosen != rows.end)
        rows.sound.logical_and_(sound)
        self._last.copy_(chosen.unsqueeze(1))
        self._positions.add_(1)
        self._column.add_(1)
        self._cursor.add_(1)

    def _try_capture(self) -> None:
        import torch

        if not self._capture:
            return
        try:
            graph = torch.cuda.CUDAGraph()
            pool = None if self._outdated is None else self._outdated.pool()
            with torch.cuda.graph(graph, pool=pool):
                self._step()
        except Exception as error:  # whatever a driver or a library says to being captured
            _LOG.warning("no CUDA graph could be captured (%s); steps run one by one", error)
            self._capture = False
            torch.cuda.synchronize()
            return
        self._graph, self._outdated = graph, None
        self.captures += 1


@contextmanager
def _any_kernel() -> Iterator[None]:
    """Allow kernels that torch does not know to be deterministic.

    Copies to one index are, whatever it says; its own deterministic ones sort first.
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
