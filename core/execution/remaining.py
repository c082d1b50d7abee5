"""The trials of a plan that are not done, according to the store. Every process asks here."""

from collections.abc import Iterable, Mapping

from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import policy_of
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo


def remaining(
    trials: Iterable[TrialConfig],
    store: SweepStore,
    run_config: RunConfig,
    infos: Mapping[str, TrialInfo | None] | None = None,
) -> list[TrialConfig]:
    """The trials that are not done, in the given order. One that cannot be read counts as not done.

    Args:
        infos: the trials as just read from the store, by id; None: they are read here.
    """

    def info_of(config: TrialConfig) -> TrialInfo | None:
        return read_info(store, config.trial_id) if infos is None else infos[config.trial_id]

    return [config for config in trials if not is_done(info_of(config), config, run_config)]


def read_info(store: SweepStore, trial_id: str) -> TrialInfo | None:
    """A trial as the store has it; None before its first attempt, or if it cannot be read."""
    try:
        return store.trial(trial_id).info(verify=True)
    except OSError:  # running the trial meets the same error and records it
        return None


def is_held(store: SweepStore, config: TrialConfig) -> bool:
    """Whether a live process holds a trial."""
    info = read_info(store, config.trial_id)
    return info is not None and info.state == "running"


def is_done(info: TrialInfo | None, config: TrialConfig, run_config: RunConfig) -> bool:
    """Whether nothing is left to do for a trial.

    Not done: a completed trial whose budget was raised; a stopped trial, if no stopping rule is in force any
    more; a failed trial whose kind of failure is tried again.
    """
    if info is not None and _waits(info, config, run_config):
        return True
    if info is None or not info.ended:
        return False
    if info.state == "completed":
        return info.budget_met >= config.epochs
    if info.state == "stopped":
        return run_config.stopping
    if info.state == "failed":
        return not (info.may_retry or _is_new_try(info, run_config))
    return True


def _waits(info: TrialInfo, config: TrialConfig, run_config: RunConfig) -> bool:
    if run_config.until is None or info.epoch < run_config.until:
        return False
    return info.state == "interrupted" and run_config.until < config.epochs


def _is_new_try(info: TrialInfo, run_config: RunConfig) -> bool:
    """Whether this command tries a failed trial again that has no retries left."""
    wanted = run_config.retry_failed or policy_of(info.failure).again
    # Not by time: the clocks of the hosts may differ.
    return wanted and info.attempts[-1].command_id != run_config.command_id
