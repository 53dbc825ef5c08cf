"""What every process of a vLLM engine must know of ours. With tensor parallel, an engine starts processes of its own;
each imports this file, because Sampler names WorkerExtension to vLLM as the workers' extension class.
"""

from __future__ import annotations

from rl.workers.sampler.precision import register_add_and_norm
from rl.workers.sync.vllm_transfer import register_engines


class WorkerExtension:
    """Adds nothing to vLLM's worker: that vLLM looks it up is enough."""


EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"

register_engines()
register_add_and_norm()
