"""What is left to do of a plan, as the store has it. Every process asks here."""

from collections.abc import Iterable, Mapping

from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import POLICIES
from mixsweep.core.store.store import SweepStore, TrialInfo


def remaining(
    trials: Iterable[TrialConfig],
    store: SweepStore,
    run_config: RunConfig,
    infos: Mapping[str, TrialInfo | None] | None = None,
) -> list[TrialConfig]:
    """The trials that are not done, in the given order; a trial that cannot be read is left to its run.

    Args:
        infos: by trial, what the store was just found to say; None: it is read here.
    """

    def info_of(config: TrialConfig) -> TrialInfo | None:
        return read_info(store, config.trial_id) if infos is None else infos[config.trial_id]

    return [config for config in trials if not is_done(info_of(config), config, run_config)]


def read_info(store: SweepStore, trial_id: str) -> TrialInfo | None:
    """What the store says of a trial; None before its first attempt, and where it cannot be read."""
    try:
        return store.trial(trial_id).info()
    except (UserError, OSError):  # its run meets it again, and says so
        return None


def is_held(store: SweepStore, config: TrialConfig) -> bool:
    """Whether a live process holds a trial."""
    info = read_info(store, config.trial_id)
    return info is not None and info.state == "running"


def is_done(info: TrialInfo | None, config: TrialConfig, run_config: RunConfig) -> bool:
    """Whether nothing is left to do for a trial.

    A trial with more epochs to go than it has trained is not done; nor one that a rule stopped when there
    is no rule any more; nor one whose kind of failure is tried again.
    """
    if info is not None and _waits(info, config, run_config):
        return True
    if info is None or not info.ended:
        return False
    if info.state == "completed":
        return info.epoch >= config.epochs
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
    """Whether this command gives a failed trial a try that its own retries no longer do."""
    wanted = run_config.retry_failed or POLICIES[info.failure].again
    # Not by time: the clocks of the hosts may differ.
    return wanted and info.attempts[-1].command_id != run_config.command_id
