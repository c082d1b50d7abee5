"""Trials of a plan that other code of the user's has trained than what is at hand now."""

from mixsweep.core.store.code_copy import kept_versions, versions_of
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial_index import TrialIndex
from mixsweep.sweep.planning.plan import Plan


def other_code(plan: Plan, store: SweepStore) -> dict[str, list[str]]:
    """Return the trials of a plan that other code has trained, by the digest of that code.

    A trial that has been trained further by changed code is among those of each.
    """
    if plan.spec.user_code is None:
        return {}
    found: dict[str, list[str]] = {}
    planned = {config.trial_id for config in plan.trials}
    for trial_id, summary in TrialIndex(store).read().items():
        for code in summary.codes if trial_id in planned else ():
            if code != plan.spec.user_code.digest:
                found.setdefault(code, []).append(trial_id)
    return found


def other_code_line(plan: Plan, store: SweepStore, found: dict[str, list[str]]) -> str:
    """Return a line on what `other_code` has found, '' for nothing."""
    if not found or plan.spec.user_code is None:
        return ""
    count = len({trial_id for trials in found.values() for trial_id in trials})
    kept = {code: kept_versions(store.path, code) for code in found}
    versions = ", ".join(
        f"{code[:8]}{f' of {kept[code]}' if kept[code] else ''}: {len(trials)}"
        for code, trials in found.items()
    )
    here = versions_of(plan.spec.user_code)
    trials = "1 trial" if count == 1 else f"{count} trials"
    return (
        f"different code of yours has trained {trials} in the store ({versions}); "
        f"the code at hand is {plan.spec.user_code.digest[:8]}{f' of {here}' if here else ''}"
    )
