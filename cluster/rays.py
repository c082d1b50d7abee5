"""Ray clusters: start one on this machine, and end only what was started here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Trials share images through memory-mapped files and results through the store; Ray carries the plan alone.
_OBJECT_STORE_BYTES = 128 * 2**20

# Read by Ray when it is imported or started; a user's own choice comes first.
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a CPU trial must not change what the process sees of GPUs
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a store may be a relative path
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store is the record: no CSV, JSON, TensorBoard beside it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it ends at a safe point
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # no snapshots of the driver: the store is the state
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def local_ray(cpus: int | None = None, gpus: int | None = None) -> Iterator[dict[str, float]]:
    """A Ray of our own on this machine, of the given size or the machine's; ended on leaving.

    Yields:
        the cluster's resources by name.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    root = str(Path(__file__).resolve().parent.parent)
    ray.init(
        address="local",  # never a cluster of somebody else that happens to run here
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": _python_path(root)}},
    )
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _python_path(root: str) -> str:
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([root, before]) if before else root
