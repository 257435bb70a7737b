"""`rrk ARGS` where accelerate shares weights out on a CPU too: it knows FSDP on accelerators only.

What is opened is that one gate; wrapping, gradients, checkpoints and gathering are accelerate's and PyTorch's own, over gloo.
"""

from __future__ import annotations

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from rrk.cli import main

_begin = PartialState.__init__


def _opened(self, *given, **named):
    _begin(self, *given, **named)
    if self.__dict__.get("distributed_type") == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = _opened

if __name__ == "__main__":
    sys.argv[0] = "rrk"
    main()
