"""Runs a stage in several processes on this machine, as torchrun does, with one line for each kind of trouble."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from oniris_core.common.errors import OnirisError
from oniris_core.common.process import launch_variables


def is_rank() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in os.environ


def launch(module: str, arguments: Sequence[str], processes: int) -> int:
    """Run `python -m <module> <arguments>` in `processes` processes and wait for them.

    They are not started again after a failure: the same command goes on from the last checkpoint.

    Returns:
        The exit code: that of the first process that failed or was stopped (it has said why), or 0.

    Raises:
        OnirisError: a process was killed.
    """
    # What they would report of a failure, the process that failed has said in one line; and that in some steps no
    # parameter is left out, as DistributedDataParallel would remark, is as it should be.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ |= launch_variables()
    os.environ["ONIRIS_ANNOUNCED"] = "1"  # they need not say again which options differ from params.yaml
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # or every run would leave a folder where temporary files are
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise OnirisError(
                f"process {failure.local_rank} of {processes} was killed by signal {-failure.exitcode}; the same command "
                "goes on from the last checkpoint"
            ) from None
        return failure.exitcode
    return 0
